/* Train it yourself, its six tasks: what each asks for, and whether the runs so far have
   done it. A run is what `account` keeps of it. */

"use strict";

train.tasks = (() => {
  // What is kept of a run when the next one begins.
  const account = (run) => {
    const last = run.epochs.at(-1);
    return { settings: { ...run.settings }, lost: run.lost, size: run.size, last,
      epochs: run.epochs.length, collapsed: run.collapsed,
      best: Math.max(0, ...run.epochs.map((epoch) => epoch.validation_accuracy)) };
  };

  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const name = (control) => train.CONTROLS[control].name;
  // The controls in which two settings differ.
  const changed = (a, b, besides = []) => Object.keys(train.CONTROLS)
    .filter((key) => a[key] !== b[key] && !besides.includes(key));
  const same = (a, b, besides) => changed(a, b, besides).length === 0;

  // Dead: no number any more, or after two epochs still no better than a guess.
  const dead = (run) => Boolean(run.lost)
    || (run.epochs >= 2 && run.last.validation_accuracy < 0.2);
  const alive = (run) => !run.lost && run.epochs >= 1 && run.last.validation_accuracy > 0.5;

  const CAUSES = ["lr", "momentum", "decay", "init"];

  function kill(runs, { defaults }) {
    const ways = new Map();
    let both = false;
    for (const run of runs.filter(dead)) {
      const causes = changed(run.settings, defaults).filter((key) => CAUSES.includes(key));
      if (causes.length === 1) ways.set(causes[0], run.settings[causes[0]]);
      both ||= causes.length > 1;
    }
    const found = [...ways].map(([key, value]) => `${name(key)} ${value}`).join(", ");
    return { done: ways.size >= 3, text: ways.size ? `${ways.size} of 3: ${found}.`
      : both ? "It is dead, but you have changed more than one of the four: which one was it?" : "" };
  }

  function cliff(runs, { bounds }) {
    let text = "";
    for (const high of runs.filter(dead))
      for (const low of runs.filter(alive)) {
        const rates = [low.settings.lr, high.settings.lr];
        if (rates[0] >= rates[1] || !same(low.settings, high.settings, ["lr", "epochs", "seed"])) continue;
        const said = `It lives at ${rates[0]} and is dead at ${rates[1]}`;
        const bound = bounds.get(train.tasks.ground(low.settings));
        if (rates[1] > 2.6 * rates[0]) text ||= `${said}. Come nearer, from both sides.`;
        else if (!bound) text = `${said}. Now ask for the bound.`;
        else return { done: true, text: `${said}, ${(rates[0] / bound).toFixed(0)} to ${
          (rates[1] / bound).toFixed(0)} times the bound, ${bound.toPrecision(2)}.` };
      }
    return { done: false, text };
  }

  function overfit(runs) {
    const gap = (run) => run.last.train_accuracy - run.last.validation_accuracy;
    const sick = runs.filter((run) => run.last && run.settings.n === 100
      && run.last.train_accuracy > 0.99 && gap(run) > 0.05);
    for (const ill of sick)
      for (const run of runs) {
        const by = changed(run.settings, ill.settings, ["epochs"]);
        if (!run.last || by.length !== 1 || by[0] === "seed") continue;
        const gain = run.last.validation_accuracy - ill.last.validation_accuracy;
        if (gain >= 0.03) return { done: true, text: `${name(by[0])} ${run.settings[by[0]]
        } instead of ${ill.settings[by[0]]}: ${percent(ill.last.validation_accuracy)} became ${
          percent(run.last.validation_accuracy)}.` };
      }
    return { done: false, text: sick.length ? `It knows its 100 images by heart and reads ${
      percent(sick.at(-1).last.validation_accuracy)} of others. Now the cure: change one control, and gain 3 points.` : "" };
  }

  function small(runs, { goal, par }) {
    const good = runs.filter((run) => run.best > goal).sort((a, b) => a.size - b.size);
    if (!good.length) return { done: false, text: "" };
    const { size, best } = good[0];
    return { done: size <= par, text: `${size.toLocaleString("en")} parameters reach ${percent(best)}.` };
  }

  function straight(runs) {
    const found = new Map(runs.filter((run) => run.collapsed && run.epochs >= 2)
      .map((run) => [run.settings.convs, run]));
    const said = [...found].sort().map(([convs, run]) => `${convs} convolution${convs > 1 ? "s" : ""}, ${
      run.size.toLocaleString("en")} parameters, ${percent(run.last.validation_accuracy)}`);
    return { done: found.size > 1, text: said.length ? `${said.join("; ")}: each is one matrix of ${
      [...found.values()][0].collapsed.numbers.toLocaleString("en")} numbers.` : "" };
  }

  // Runs that were trained to their end, by all of their settings but the seed.
  function groups(runs) {
    const found = new Map();
    for (const run of runs) {
      if (run.epochs !== run.settings.epochs || run.lost) continue;
      const key = JSON.stringify({ ...run.settings, seed: 0 });
      found.set(key, (found.get(key) ?? new Map()).set(run.settings.seed, run.last.validation_accuracy));
    }
    return [...found].map(([key, seeds]) => ({ settings: JSON.parse(key), seeds: [...seeds.values()] }));
  }

  const mean = (list) => list.reduce((sum, v) => sum + v, 0) / list.length;
  const variance = (list) => list.reduce((sum, v) => sum + (v - mean(list)) ** 2, 0) / (list.length - 1);

  // The last two settings of five seeds that differ in one control: difference and its error.
  function pair(runs) {
    const five = groups(runs).filter((group) => group.seeds.length >= 5);
    const last = five.at(-1);
    const other = five.slice(0, -1).reverse().find((group) =>
      changed(group.settings, last.settings).length === 1);
    if (!other) return null;
    const [key] = changed(other.settings, last.settings);
    const gain = mean(last.seeds) - mean(other.seeds);
    const error = Math.sqrt(variance(last.seeds) / last.seeds.length
      + variance(other.seeds) / other.seeds.length);
    return { id: JSON.stringify([other.settings, last.settings]), key, from: other.settings[key],
      to: last.settings[key], gain, error, is: Math.abs(gain) > 2 * error ? "gain" : "luck" };
  }

  function luck(runs, { guesses }) {
    const right = [...guesses.values()].find((guess) => guess.said === guess.is);
    const now = pair(runs);
    if (!now) {
      const most = Math.max(0, ...groups(runs).map((group) => group.seeds.length));
      return { done: Boolean(right), text: most ? `${most} seeds with one setting. Two settings are needed that differ in one control, five seeds each.` : "" };
    }
    const points = (v) => `${(100 * v).toFixed(1)}`;
    const said = guesses.get(now.id)?.said;
    const what = `${name(now.key)} ${now.from} \u2192 ${now.to}: ${points(now.gain)} points`;
    return { done: Boolean(right), ask: said ? null : now, text: said
      ? `${what}, with a standard error of ${points(now.error)}: ${now.is === "luck"
        ? "no more than luck may do" : "more than luck"}. You said ${said}.`
      : `${what} in the mean of the seeds. Look at their spread: is it gain, or luck?` };
  }

  // What the curvature at the start depends on.
  const ground = (settings) => JSON.stringify({ ...settings, lr: 0, decay: 0, epochs: 0, batch: 0, seed: 0 });

  const all = [
    { key: "kill", title: "Kill it in three ways",
      goal: () => "Change one of learning rate, momentum, weight decay or start. Dead is what is no better than a guess after two epochs, or has no loss any more.", check: kill },
    { key: "cliff", title: "Find the cliff",
      goal: () => "Two learning rates, the larger at most 2.5 times the other: with one it lives, with the other it dies. Compare them with the bound of Descent.", check: cliff },
    { key: "overfit", title: "Overfit, then cure it with one control",
      goal: () => "Learn 100 images by heart, 5 points better than others. Then gain 3 points on the others by one change.", check: overfit },
    { key: "small", title: "Find the smallest network",
      goal: ({ goal, par }) => `More than ${percent(goal)} of the validation images, with at most ${par.toLocaleString("en")} parameters.`, check: small },
    { key: "straight", title: "Without ReLU, depth buys nothing",
      goal: () => "No activation, no pooling, two epochs: collapse the network with one convolution, and the one with two.", check: straight },
    { key: "luck", title: "Tell luck from gain",
      goal: () => "Two settings that differ in one control, five seeds each. Then say which it is.", check: luck },
  ];

  return { all, account, dead, changed, ground, groups, mean, variance, percent };
})();
