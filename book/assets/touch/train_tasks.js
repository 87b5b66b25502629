/* Train it yourself, its six tasks: whether the runs so far have done them, and what to
   say of it. Of a run is known what `account` keeps. */

"use strict";

train.tasks = (controls) => {
  const { power, short } = touch;
  const account = ({ settings, lost, size, collapsed, epochs }) => ({ lost, size, collapsed,
    settings: { ...settings }, last: epochs.at(-1), epochs: epochs.length });

  const whole = (count) => count.toLocaleString("en");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const points = (share) => touch.fixed(100 * share, 1);
  const told = (key, value) => touch.show(controls[key].texts?.[value] ?? value);
  // The controls in which two settings differ.
  const changed = (a, b, besides = []) => Object.keys(controls)
    .filter((key) => a[key] !== b[key] && !besides.includes(key));

  // Dead: no number any more, or after two epochs still no better than a guess.
  const dead = ({ lost, epochs, last }) => lost || (epochs >= 2 && last.validation_accuracy < 0.2);
  const alive = ({ lost, epochs, last }) => !lost && epochs && last.validation_accuracy > 0.5;

  function kill(runs, { defaults }) {
    const [ways, all] = [new Map(), ["lr", "momentum", "decay", "init"]];
    let text = "";
    for (const { settings } of runs.filter(dead)) {
      const causes = changed(settings, defaults).filter((key) => all.includes(key));
      if (causes.length === 1) ways.set(causes[0], told(causes[0], settings[causes[0]]));
      else text = "Dead. But which of your changes was it?";
    }
    if (ways.size) text = `${ways.size} of 3: ${
      [...ways].map(([key, value]) => `${controls[key].name} ${value}`).join(", ")}.`;
    return { done: ways.size >= 3, text };
  }

  function cliff(runs, { bounds }) {
    const pairs = runs.filter(dead).flatMap((high) => runs.filter((low) => alive(low)
      && low.settings.lr < high.settings.lr
      && !changed(low.settings, high.settings, ["lr", "epochs", "seed"]).length)
      .map(({ settings }) => [settings.lr, high.settings.lr, bounds.get(ground(settings))]));
    if (!pairs.length) return { text: "" };
    // The closest pair; of equals, one whose bound is known.
    const [a, b, bound] = pairs.sort((p, q) => p[1] / p[0] - q[1] / q[0] || !p[2] - !q[2])[0];
    const text = `It lives at ${a} and is dead at ${b}`;
    if (b > 2.6 * a) return { text: `${text}. Come nearer, from both sides.` };
    if (!bound) return { text: `${text}. Now ask for the bound.` };
    return { done: true, text: `${text}: ${short(a / bound)} to ${
      short(b / bound)} times the bound.` };
  }

  function overfit(runs) {
    let text = "";
    for (const ill of runs) {
      const { n } = ill.settings;
      if (n !== 100 || !ill.last || ill.last.train_accuracy < 0.99
        || ill.last.train_accuracy - ill.last.validation_accuracy < 0.05) continue;
      const before = ill.last.validation_accuracy;
      text = `It knows ${n} images by heart, and reads ${percent(before)} of others. Now the cure.`;
      for (const { settings, last } of runs) {
        const by = changed(settings, ill.settings, ["epochs"]);
        if (last && by.length === 1 && by[0] !== "seed" && last.validation_accuracy >= before + 0.03)
          return { done: true, text: `${controls[by[0]].name} ${told(by[0], settings[by[0]])}: ${
            percent(before)} became ${percent(last.validation_accuracy)}.` };
      }
    }
    return { text };
  }

  function small(runs, { goal, par }) {
    const [run] = runs.filter(({ last }) => last?.validation_accuracy > goal)
      .sort((a, b) => a.size - b.size);
    return { done: run?.size <= par,
      text: run ? `${whole(run.size)} parameters reach ${percent(run.last.validation_accuracy)}.` : "" };
  }

  function straight(runs) {
    const found = new Map(runs.filter(({ collapsed, epochs }) => collapsed && epochs >= 2)
      .map((run) => [run.settings.convs, run]));
    const text = [...found.values()].map(({ settings, size, last, collapsed }) =>
      `Convolutions: ${settings.convs}. ${whole(size)} parameters read ${percent(last.validation_accuracy)
      }, and are one matrix of ${whole(collapsed.numbers)} numbers, but for ${
        power(collapsed.apart, 0)} of the largest logit.`).join(" ");
    return { done: found.size > 1, text };
  }

  const mean = (list) => list.reduce((sum, v) => sum + v, 0) / list.length;
  const error = (list) => list.reduce((sum, v) => sum + (v - mean(list)) ** 2, 0)
    / (list.length - 1) / list.length;

  // The last two settings, trained to the end with the same five seeds, that differ in one
  // control: the gain of each seed.
  function pair(runs) {
    const groups = new Map();
    for (const { settings, epochs, last } of runs) {
      if (epochs !== settings.epochs) continue;
      const key = JSON.stringify({ ...settings, seed: 0 });
      groups.set(key, (groups.get(key) ?? new Map()).set(settings.seed, last.validation_accuracy));
    }
    const five = [...groups].filter(([, seeds]) => seeds.size >= 5)
      .map(([key, seeds]) => ({ settings: JSON.parse(key), seeds }));
    const now = five.pop();
    const each = ({ seeds }) => [...now.seeds].flatMap(([seed, v]) =>
      (seeds.has(seed) ? v - seeds.get(seed) : []));
    const old = five.reverse().find((one) => changed(one.settings, now.settings).length === 1
      && each(one).length >= 5);
    if (!old) return { five: now && 1 };
    const [key] = changed(old.settings, now.settings);
    const gains = each(old);
    const doubt = Math.sqrt(error(gains));
    return { id: JSON.stringify([old.settings, now.settings]),
      is: Math.abs(mean(gains)) > 2 * doubt ? "gain" : "luck",
      what: `${controls[key].name} ${told(key, now.settings[key])} instead of ${told(key, old.settings[key])
      }, seed by seed: ${gains.map(points).join(" ")} points, mean ${points(mean(gains))} ± ${points(doubt)}.` };
  }

  function luck(runs, { guesses }) {
    const now = pair(runs);
    const done = [...guesses.values()].some(({ said, is }) => said === is);
    if (!now.id) return { done, text: now.five ? "Now five seeds of another setting." : "" };
    const said = guesses.get(now.id)?.said;
    return { done, guess: said ? null : now, text: said
      ? `${now.what} You said ${said}, and it is ${now.is}.`
      : `${now.what} Is that gain, or luck?` };
  }

  // What the bound depends on.
  const ground = ({ lr, epochs, batch, seed, ...others }) => JSON.stringify(others);

  return { checks: { kill, cliff, overfit, small, straight, luck }, account, changed, ground,
    mean, percent, told, whole };
};
