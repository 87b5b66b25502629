# One verb for each thing to do. CONTRIBUTING.md tells when, and why.

PAGE ?= index

help: ## list these verbs
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

book: ## build the whole book; a warning is an error
	jupyter-book build book/ -W -n --keep-going

pdf: ## print the built book: one PDF, put into the site
	python book/_ext/pdf.py

page: tangle ## build one page for a look: make page PAGE=layers/relu
	jupyter-book build book/$(PAGE).md

tangle: ## carry edits of the chapters into cnn/
	python book/_ext/tangle.py

back: ## carry edits of cnn/ into the chapters
	python book/_ext/tangle.py --back

test: ## run the tests, but for those that take minutes
	pytest -n auto

slow: ## run those that take minutes: kills, notebooks, the blank page
	pytest -m slow

check: ## style, types, and whether package and book agree
	ruff check .
	ruff format --check .
	mypy --strict cnn
	mypy --strict book/_ext benchmarks
	mypy --strict --platform win32 cnn book/_ext
	python book/_ext/tangle.py --check

coverage: ## which lines and branches of cnn/ do the tests not reach?
	pytest -n auto --cov --cov-report=term-missing

mutants: ## break cnn/ line by line; do the tests notice? make mutants MODULE=relu
	python tests/mutants.py $(MODULE)

bench: ## time training and inference beside PyTorch and others
	python -m benchmarks

clean: ## delete what was built; results of experiments stay
	rm -rf _build build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

.PHONY: help book pdf page tangle back test check coverage mutants bench clean slow
