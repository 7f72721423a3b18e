// What the Blocks step works on: LoRAs with their strengths and a weight for every block, each change of which can be
// undone. No elements here; the other train_lora_blocks_*.js show it, and register themselves as parts of the page.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.blocks) return;
  const { t, get, post } = lora;

  // Numbers: the rules of lora_train/blocks/edit.py

  const [LOW, HIGH, STEP, FINE, PLACES] = [-1, 2, 0.05, 0.01, 9];
  const [BASE, MIDDLE, OTHER] = ["BASE", "M00", "OTHER"];
  const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;

  const tidy = (value) => Number(value.toFixed(PLACES)) + 0;
  const clamp = (value) => Math.min(HIGH, Math.max(LOW, value)) + 0;

  function halfEven(value) {
    const whole = Math.floor(value), rest = value - whole;
    return rest > 0.5 || (rest === 0.5 && whole % 2) ? whole + 1 : whole;
  }

  const snap = (value, step = STEP) => clamp(tidy(halfEven(clamp(value) / step) * step));
  const nudge = (value, steps, step = STEP) => snap(value + steps * step, step);

  function parseNumber(text) {
    const value = NUMBER.test(text.trim()) ? Number(text) : NaN;
    return Number.isFinite(value) ? value + 0 : null;
  }

  const formatNumber = (value) => String(tidy(value));
  const entries = (weights, act) => Object.fromEntries(Object.entries(weights).map(([block, old]) => [block, act(block, old)]));

  function change(weights, blocks, act, locked = new Set()) {
    const chosen = new Set(blocks);
    return entries(weights, (block, old) => (chosen.has(block) && !locked.has(block) ? tidy(act(old)) : old));
  }

  const put = (weights, values, locked = new Set()) => entries(weights, (block, old) => (block in values && !locked.has(block) ? values[block] + 0 : old));

  function shift(weights, blocks, by, locked, step = STEP) {
    return change(weights, blocks, (old) => {
      const moved = snap(tidy(old + by), step);
      return (moved - old) * by > 0 ? moved : old;
    }, locked);
  }

  const scale = (weights, blocks, factor, about = 0, locked) => change(weights, blocks, (old) => about + factor * (old - about), locked);
  const invert = (weights, blocks, locked) => change(weights, blocks, (old) => 1 - old, locked);

  function mirror(weights, partners, locked = new Set(), present = null) {
    const fixed = (block) => locked.has(block) || Boolean(present && partners[block] && !present.includes(block));
    return entries(weights, (block, old) => {
      const partner = partners[block] || block;
      return fixed(block) || fixed(partner) || !(partner in weights) ? old : weights[partner];
    });
  }

  const blend = (first, second, share, locked = new Set()) =>
    entries(first, (block, old) => (locked.has(block) || !(block in second) ? old : tidy((1 - share) * old + share * second[block])));

  function difference(weights, base) {
    const apart = {};
    for (const [block, value] of Object.entries(weights)) if (block in base && tidy(value - base[block])) apart[block] = tidy(value - base[block]);
    return apart;
  }

  // A monotone cubic through [place, number] points at the places 0 … count − 1 (Fritsch, Carlson 1980).
  function through(points, count) {
    const curve = [...new Map(points)].sort(([one], [other]) => one - other);
    const xs = curve.map(([x]) => x), ys = curve.map(([, y]) => y);
    const steps = xs.slice(1).map((x, n) => x - xs[n]), secants = steps.map((width, n) => (ys[n + 1] - ys[n]) / width);
    const inner = secants.slice(1).map((right, n) => (secants[n] * right <= 0 ? 0 : (steps[n] + steps[n + 1]) / (steps[n] / secants[n] + steps[n + 1] / right)));
    const slopes = [0, ...inner, 0];
    return Array.from({ length: count }, (_, x) => {
      const n = xs.findIndex((right) => x <= right);
      if (n <= 0) return tidy(n ? ys[ys.length - 1] : ys[0]);
      const width = steps[n - 1], s = (x - xs[n - 1]) / width, [low, high] = [Math.min(ys[n - 1], ys[n]), Math.max(ys[n - 1], ys[n])];
      const value = ys[n - 1] + s * s * (3 - 2 * s) * (ys[n] - ys[n - 1]) + s * (1 - s) ** 2 * slopes[n - 1] * width + s * s * (s - 1) * slopes[n] * width;
      return tidy(Math.min(high, Math.max(low, value)));
    });
  }

  const rules = { LOW, HIGH, STEP, FINE, tidy, clamp, snap, nudge, parseNumber, formatNumber, change, put, shift, scale, invert, mirror, blend, difference, through };

  // What is known of families, files and presets

  const SHOT = { prompt: "", negative_prompt: "", prompts: [], seeds: [1], steps: 20, cfg_scale: 7, sampler: "Euler", width: 512, height: 512, clip_skip: 1 };
  const state = {
    families: null, files: null, presets: { file: "", shared: false, presets: [], faults: [] }, details: new Map(), failed: null,
    mix: { loras: [], shot: { ...SHOT } }, active: 0, locks: {}, origins: {}, wide: false, unlisted: 0, proposal: null, hover: null,
  };
  const undone = [], done = [], listeners = [], parts = [];
  let last = { key: "", at: 0 }, awaited = false;
  const [TOGETHER, DEEPEST] = [800, 300]; // milliseconds in which changes of one kind are one; changes that are kept

  const stem = (name) => String(name).split("/").pop();
  const active = () => state.mix.loras[state.active] || null;
  const detail = (name) => state.details.get(name) || null;

  function family() {
    const known = state.mix.loras.map((one) => detail(one.name)).find(Boolean);
    return (known && known.family) || "SD1.5";
  }

  // {blocks, attention, groups, partners} of the mix's family; blocks without OTHER.
  function topology(name = family()) {
    const told = state.families && (state.families[name] || state.families["SD1.5"]);
    if (!told) return { blocks: [], attention: [], groups: {}, partners: {} };
    const blocks = told.blocks.filter((block) => block !== OTHER);
    return { ...told, blocks };
  }

  const present = (name, block) => { const known = detail(name); return !known || !known.present || Boolean(known.present[block]); };

  // The columns: what a short list names, and whatever else one of the LoRAs has.
  function columns() {
    const { blocks, attention } = topology();
    const had = (block) => state.mix.loras.some(({ name }) => detail(name) && detail(name).present && detail(name).present[block]);
    const shown = blocks.filter((block) => state.wide || attention.includes(block) || had(block));
    return had(OTHER) ? [...shown, OTHER] : shown;
  }

  const flat = (value = 1) => Object.fromEntries([...topology().blocks, OTHER].map((block) => [block, value]));

  // Every block's weight from a list; null where the family has no list of that length.
  function fromNumbers(numbers, unlisted = state.unlisted) {
    const { blocks, attention } = topology();
    const named = [attention, blocks].find((names) => names.length === numbers.length);
    if (!named) return null;
    return { ...Object.fromEntries(blocks.map((block) => [block, unlisted])), ...Object.fromEntries(named.map((block, n) => [block, numbers[n]])), [OTHER]: 1 };
  }

  // The short list where it says all that matters for this file, else the long one.
  function toNumbers(one) {
    const { blocks, attention } = topology();
    const short = blocks.every((block) => attention.includes(block) || !present(one.name, block) || one.weights[block] === state.unlisted);
    return (short ? attention : blocks).map((block) => one.weights[block]);
  }

  const preset = (name) => state.presets.presets.find((one) => one.name === name) || null;

  function presetWeights(name) {
    const found = preset(name);
    return found && fromNumbers(found.numbers);
  }

  // What the active LoRA's numbers began as, where they were a preset's.
  function origin(one = active()) {
    const name = one && state.origins[one.name], weights = name && presetWeights(name);
    return weights ? { name, weights, apart: matters(one, difference(one.weights, weights)) } : null;
  }

  const matters = (one, apart) => Object.fromEntries(Object.entries(apart).filter(([block]) => block !== OTHER && present(one.name, block)));

  const locked = (one = active()) => new Set((one && state.locks[one.name]) || []);

  // Changes

  const copy = (value) => JSON.parse(JSON.stringify(value));
  const held = () => copy({ loras: state.mix.loras, active: state.active, origins: state.origins });

  // One change that can be undone. key: changes with the same one, close together or of one drag, are one.
  function edit(label, act, key = "") {
    const before = held();
    act();
    if (JSON.stringify(before) === JSON.stringify(held())) return;
    const together = key && key === last.key && (key.startsWith("drag") || Date.now() - last.at < TOGETHER);
    if (!together) {
      done.push({ label, ...before });
      if (done.length > DEEPEST) done.shift();
    }
    undone.length = 0;
    last = { key, at: Date.now() };
    touched();
  }

  function setWeights(weights, label, key) {
    edit(label, () => { active().weights = weights; }, key);
  }

  function back(from, to) {
    const step = from.pop();
    if (!step) return;
    to.push({ label: step.label, ...held() });
    [state.mix.loras, state.active, state.origins] = [step.loras, step.active, step.origins];
    last = { key: "", at: 0 };
    touched();
    step.loras.forEach(({ name }) => learn(name));
  }

  const undo = () => back(done, undone), redo = () => back(undone, done);

  function touched() {
    state.proposal = null;
    remember();
    for (const listener of listeners) listener();
    redraw();
  }

  // Kept in the browser until the next try keeps it on the server.
  const PLACE = "train-lora-blocks";
  let keeping = 0;

  function remember() {
    clearTimeout(keeping);
    keeping = setTimeout(() => {
      try {
        localStorage.setItem(PLACE, JSON.stringify({ ...held(), shot: state.mix.shot, locks: state.locks, unlisted: state.unlisted, board: lora.blocks.board || null }));
      } catch { /* a browser that keeps nothing */ }
    }, 200);
  }

  function remembered() {
    try {
      return JSON.parse(localStorage.getItem(PLACE) || "null");
    } catch {
      return null;
    }
  }

  // LoRAs

  async function learn(name) {
    if (state.details.has(name)) return state.details.get(name);
    try {
      state.details.set(name, await get(`blocks/lora?name=${encodeURIComponent(name)}`));
    } catch (error) {
      state.details.set(name, null);
      state.failed = error;
    }
    redraw();
    return state.details.get(name);
  }

  async function add(name, more = {}) {
    const known = await learn(name);
    if (!known) {
      state.details.delete(name); // another click asks again
      return false;
    }
    const other = state.mix.loras.map((one) => detail(one.name)).find((one) => one && one.family !== known.family);
    if (other) {
      const what = t("{name} is for {family}, the others are for {families}.", { name: stem(name), family: known.family, families: other.family });
      state.failed = { status: 422, detail: [{ what }] };
      redraw();
      return false;
    }
    edit(t("Add {name}", { name: stem(name) }), () => {
      state.mix.loras.push({ name, te: 1, unet: 1, weights: { ...flatOf(known.family) }, preset: null, hidden: false, ...more });
      state.active = state.mix.loras.length - 1;
    });
    const { shot } = state.mix;
    if (!shot.prompt.trim() && known.activation_text) shot.prompt = known.activation_text;
    return true;
  }

  function flatOf(name) {
    return Object.fromEntries([...topology(name).blocks, OTHER].map((block) => [block, 1]));
  }

  function remove(index) {
    edit(t("Take {name} out", { name: stem(state.mix.loras[index].name) }), () => {
      state.mix.loras.splice(index, 1);
      state.active = Math.max(0, Math.min(state.active - (index < state.active ? 1 : 0), state.mix.loras.length - 1));
    });
  }

  // A whole mix, such as a try's or one that was pasted.
  function replace(label, mix) {
    mix.loras.forEach((one) => learn(one.name));
    edit(label, () => {
      state.mix.loras = copy(mix.loras).map((one) => ({ te: 1, unet: 1, preset: null, hidden: false, ...one, weights: { ...flat(), ...one.weights } }));
      state.active = Math.min(state.active, Math.max(0, state.mix.loras.length - 1));
      for (const one of state.mix.loras) if (one.preset) state.origins[one.name] = one.preset;
    });
    if (mix.shot) state.mix.shot = { ...state.mix.shot, ...copy(mix.shot) };
    redraw();
  }

  // The mix as the server takes it: a preset's name only where the numbers still are the preset's, each prompt once.
  function told() {
    const { shot } = state.mix, prompts = [...new Set(shot.prompts)].filter((prompt) => prompt.trim() && prompt !== shot.prompt);
    return { loras: state.mix.loras.map((one) => ({ ...one, preset: presetOf(one) })), shot: { ...shot, prompts } };
  }

  function presetOf(one) {
    const from = origin(one);
    return from && !Object.keys(from.apart).length ? from.name : null;
  }

  async function loadPresets(change) {
    state.presets = change ? await post("blocks/presets", change) : await get("blocks/presets");
    redraw();
  }

  async function loadFiles() {
    state.files = await get("blocks/loras");
    redraw();
  }

  // The page's parts: {build() → element, draw(element)}; drawn together, once a frame

  function part(name, place, view) {
    parts.push({ name, place, ...view });
  }

  function redraw() {
    if (awaited) return;
    awaited = true;
    requestAnimationFrame(() => {
      awaited = false;
      if (lora.blocks.draw) lora.blocks.draw();
    });
  }

  lora.blocks = {
    BASE, MIDDLE, OTHER, PLACE, rules, state, parts, undone, done,
    active, detail, family, topology, present, columns, flat, fromNumbers, toNumbers, preset, presetWeights, origin, presetOf, locked,
    edit, setWeights, undo, redo, touched, remember, remembered, learn, add, remove, replace, told, loadPresets, loadFiles, part, redraw, stem, copy,
    onChange: (listener) => listeners.push(listener),
  };
})();
