// What is too wide for the page scrolls: with this, by keys too.
addEventListener("load", async () => {
  await window.MathJax?.startup.promise;
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const wide = target.scrollWidth > target.clientWidth;
      if (wide) target.setAttribute("tabindex", 0);
      else target.removeAttribute("tabindex");
    }
  });
  const boxes = "mjx-container, .cell_output .highlight";
  for (const box of document.querySelectorAll(boxes)) resized.observe(box);
});
