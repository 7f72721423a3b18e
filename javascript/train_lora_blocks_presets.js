// Presets as chips, each with its little curve: put on, saved, renamed, removed, blended.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.spark) return;
  const { t, make, say, show, mark, list, fill, message } = lora;
  const { state, rules } = blocks;
  const [FEW, TALL] = [14, 20];

  // A little curve of some numbers.
  function spark(numbers) {
    const [high, low] = [Math.max(1.2, ...numbers.map(rules.clamp)), Math.min(0, ...numbers.map(rules.clamp))];
    const y = (value) => 1 + ((TALL - 2) * (high - rules.clamp(value))) / (high - low), zero = y(0);
    const bars = numbers.map((value, n) => `M${n + 0.5} ${zero}V${value ? y(value) : zero - 0.5}`).join("");
    const drawn = blocks.svg("svg", { class: "train-lora-blocks-spark", viewBox: `0 0 ${numbers.length} ${TALL}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    drawn.append(blocks.svg("path", { d: `M0 ${zero}H${numbers.length}`, "data-kind": "zero" }), blocks.svg("path", { d: bars, "data-kind": "bars" }));
    return drawn;
  }

  const fitting = () => state.presets.presets.filter((one) => blocks.fromNumbers(one.numbers));

  function usePreset(name) {
    const one = blocks.active(), weights = blocks.presetWeights(name);
    if (!weights) return;
    blocks.edit(name, () => {
      one.weights = rules.put(one.weights, { ...weights, [blocks.OTHER]: one.weights[blocks.OTHER] }, blocks.locked());
      state.origins[one.name] = name;
    });
  }

  async function change(what, done) {
    try {
      await blocks.loadPresets(what);
      done();
      blocks.complain(null);
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      blocks.complain(error);
    }
    blocks.redraw();
  }

  function save(name) {
    const one = blocks.active();
    change({ put: { name, numbers: blocks.toNumbers(one) } }, () => {
      state.origins[one.name] = name;
      blocks.answer(t("{name} is saved in {file}.", { name, file: state.presets.file }));
    });
  }

  // One line in which a name is typed.
  function naming(box, text, value, act) {
    const field = make("input", { type: "text", value, spellcheck: "false", autocomplete: "off", "aria-label": text });
    const close = () => show(box, false);
    const send = () => { if (field.value.trim()) { close(); act(field.value.trim()); } };
    field.addEventListener("keydown", (event) => { if (event.key === "Enter") send(); if (event.key === "Escape") close(); });
    box.replaceChildren(make("span", {}, text), field, blocks.button(t("Save"), send, { class: "train-lora-grid-button train-lora-grid-primary" }), blocks.button(t("Cancel"), close));
    show(box, true);
    field.focus();
    field.select();
  }

  function build() {
    const box = make("section", { class: "train-lora-blocks-box", "aria-label": t("Presets") });
    box.chips = make("div", { class: "train-lora-blocks-chips" });
    box.more = make("button", { type: "button", class: "train-lora-link", onclick: () => { box.all = !box.all; blocks.redraw(); } });
    box.now = make("span", { class: "train-lora-blocks-now" });
    box.name = make("div", { class: "train-lora-blocks-set train-lora-blocks-naming", hidden: true });
    box.saveAs = blocks.button(t("Save as preset …"), () => naming(box.name, t("Name of the preset"), (blocks.origin() || {}).name || "", save));
    box.again = blocks.button("", () => usePreset(blocks.origin().name));
    box.update = blocks.button("", () => save(blocks.origin().name));
    box.rename = blocks.button(t("Rename …"), () => { const old = blocks.origin().name; naming(box.name, t("New name of {name}", { name: old }), old, (name) => change({ rename: [old, name] }, () => { for (const [who, which] of Object.entries(state.origins)) if (which === old) state.origins[who] = name; })); });
    box.remove = blocks.button(t("Remove"), () => { const { name } = blocks.origin(), kept = blocks.preset(name).numbers; change({ remove: name }, () => undoable(box, name, kept)); });
    box.undo = make("span", { class: "train-lora-blocks-set", role: "status", hidden: true });
    box.file = make("p", { class: "train-lora-hint" });
    box.faults = make("details", { class: "train-lora-help" });
    box.blend = buildBlend();
    box.append(make("div", { class: "train-lora-blocks-line" }, make("b", {}, t("Presets")), box.now, box.again, box.update, box.rename, box.remove, box.saveAs), box.name, box.undo, box.chips, box.more, box.blend, box.file, box.faults);
    return box;
  }

  function undoable(box, name, numbers) {
    box.undo.replaceChildren(make("span", {}, t("{name} is removed.", { name })), blocks.button(t("Put it back"), () => change({ put: { name, numbers } }, () => show(box.undo, false))));
    show(box.undo, true);
  }

  function draw(box) {
    const one = blocks.active(), presets = fitting(), from = blocks.origin();
    if (!one) return;
    const shown = box.all || presets.length <= FEW + 2 ? presets : presets.filter((it, n) => n < FEW || (from && it.name === from.name));
    list(box.chips, shown, (it) => `${it.name} ${it.numbers}`, (it) => make("button", { type: "button", class: "train-lora-blocks-chip", "data-name": it.name, title: it.numbers.map(rules.formatNumber).join(","), onclick: () => usePreset(it.name) }, spark(it.numbers), make("span", {}, it.name)));
    for (const chip of box.chips.children) mark(chip, "aria-pressed", Boolean(from) && from.name === chip.dataset.name);
    show(box.more, presets.length > shown.length || (box.all && presets.length > FEW + 2));
    say(box.more, box.all ? t("Show fewer") : t("Show all {count}", { count: presets.length }));
    const apart = from ? Object.keys(from.apart).length : 0, own = from && !blocks.preset(from.name).builtin;
    say(box.now, !from ? "" : apart ? (apart === 1 ? t("{name}, 1 block changed", { name: from.name }) : t("{name}, {count} blocks changed", { name: from.name, count: apart })) : from.name);
    show(box.again, Boolean(from) && apart > 0);
    show(box.update, Boolean(own) && apart > 0);
    [box.rename, box.remove].forEach((button) => show(button, Boolean(own)));
    if (from) {
      say(box.again, t("Back to {name}", { name: from.name }));
      say(box.update, t("Save into {name}", { name: from.name }));
    }
    const file = String(state.presets.file || "").split(/[\\/]/).pop();
    say(box.file, state.presets.shared ? t("Your presets are kept in {file}, which LoRA Block Weight reads as well.", { file }) : t("Your presets are kept in {file}, in the format of LoRA Block Weight.", { file }));
    mark(box.file, "title", state.presets.file || "");
    const faults = state.presets.faults || [];
    show(box.faults, faults.length > 0);
    fill(box.faults, JSON.stringify(faults), () => [make("summary", {}, faults.length === 1 ? t("1 line of this file can't be used") : t("{count} lines of this file can't be used", { count: faults.length })),
      ...faults.map((fault) => make("p", {}, t("Line {line}: {problem}", { line: fault.line, problem: message(fault.what) }), make("br"), make("code", {}, fault.text)))]);
    box.blend.update(presets);
  }

  // Between two presets

  function buildBlend() {
    const box = make("details", { class: "train-lora-help train-lora-blocks-blend" });
    const [first, second] = [0, 1].map(() => make("select", {}));
    first.setAttribute("aria-label", t("One preset"));
    second.setAttribute("aria-label", t("The other preset"));
    const slider = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: 0.5, "aria-label": t("How much of the other preset") });
    const share = make("output", {});
    let drags = 0;
    const apply = () => {
      const [one, other] = [first.value, second.value].map(blocks.presetWeights);
      if (!one || !other) return;
      say(share, `${Math.round(100 * slider.value)} %`);
      const mixed = rules.blend(one, other, Number(slider.value)), it = blocks.active();
      blocks.setWeights(rules.put(it.weights, { ...mixed, [blocks.OTHER]: it.weights[blocks.OTHER] }, blocks.locked()), t("Blend"), `drag-blend-${drags}`);
    };
    slider.addEventListener("pointerdown", () => { drags += 1; });
    slider.addEventListener("input", apply);
    [first, second].forEach((field) => field.addEventListener("change", () => { drags += 1; apply(); }));
    say(share, "50 %");
    box.append(make("summary", {}, t("Blend two presets")), make("div", { class: "train-lora-blocks-set" }, first, slider, second, share));
    box.update = (presets) => {
      show(box, presets.length > 1);
      const names = presets.map((one) => one.name);
      [first, second].forEach((field, n) => {
        const was = field.value;
        fill(field, JSON.stringify(names), () => names.map((name) => make("option", { value: name }, name)));
        if (names.includes(was)) field.value = was;
        else if (n && names.length > 1) field.selectedIndex = 1;
      });
    };
    return box;
  }

  blocks.part("presets", "presets", { build, draw });
  Object.assign(blocks, { spark, usePreset });
})();
