// What is wrong with the picture? A fault's remedy, drawn on the columns with its reason, before anything is changed.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.advise) return;
  const { t, make, say, show, mark, fill, list, get, post, message } = lora;
  const { state, rules } = blocks;
  const AMOUNTS = [0.05, 0.1, 0.15, 0.2, 0.3];
  let known = null, asking = false, applying = false;
  let open = null; // {symptom, step, told, applied}: the proposal that is looked at
  let amount = 0.1;

  const symptom = (key) => known.symptoms.find((one) => one.key === key);

  async function ask(key, step = 0) {
    const one = blocks.active(), locked = state.mix.loras.flatMap((it, place) => (state.locks[it.name] || []).map((block) => [place, block]));
    const body = { symptom: key, step, amount, mix: blocks.told(), locked };
    if (one.unet > 0 && !one.hidden) body.roles = { main: state.active };
    const told = await blocks.guarded(() => post("blocks/advice", body));
    if (!told) return;
    open = { symptom: key, step, told, applied: false };
    drawOn();
  }

  // On the columns, each LoRA's own.
  function drawOn() {
    state.proposal = {};
    for (const { lora: place, block, to } of open.told.changes) {
      const { name } = state.mix.loras[place];
      if (block) (state.proposal[name] = state.proposal[name] || {})[block] = to;
    }
    if (open.told.changes.length && !open.told.changes.some(({ lora: place }) => place === state.active)) state.active = open.told.changes[0].lora;
    blocks.redraw();
  }

  function close() {
    open = null;
    state.proposal = null;
    blocks.redraw();
  }

  function apply() {
    const { told, symptom: key, step } = open;
    applying = true;
    blocks.edit(message(symptom(key).label), () => {
      for (const { lora: place, block, from, to } of told.changes) {
        const one = state.mix.loras[place];
        if (block) one.weights[block] = to;
        else if (one.te === from) one.te = one.unet = to;
        else one.unet = to;
      }
    });
    applying = false;
    open = { symptom: key, step, told, applied: true, depth: blocks.done.length };
    if (!blocks.boards.live) blocks.boards.tryNow();
    blocks.redraw();
  }

  blocks.onChange(() => { if (open && !applying) open = null; });

  // `Miro: BASE 1 → 0.9, IN04 0.9 → 0.8`
  function lines(told) {
    const each = new Map();
    for (const { lora: place, block, from, to } of told.changes) {
      const words = `${block || t("strength")} ${rules.formatNumber(from)} → ${rules.formatNumber(to)}`;
      each.set(place, [...(each.get(place) || []), words]);
    }
    return [...each].map(([place, words]) => ({ place, text: `${blocks.stem(state.mix.loras[place].name)}: ${words.join(", ")}` }));
  }

  function build() {
    const box = make("section", { class: "train-lora-blocks-box", "aria-label": t("Advice") });
    box.chips = make("div", { class: "train-lora-blocks-set" });
    box.hint = make("p", { class: "train-lora-hint" });
    box.reason = make("p", {});
    box.lines = make("ul", {});
    box.held = make("p", { class: "train-lora-hint" });
    box.amount = make("select", { "aria-label": t("How far each block is moved"), onchange: () => { amount = Number(box.amount.value); ask(open.symptom, open.step); } }, AMOUNTS.map((by) => make("option", { value: by, selected: by === amount }, `± ${by}`)));
    box.apply = blocks.button(t("Apply and look"), apply, { class: "train-lora-grid-button train-lora-grid-primary" });
    box.next = blocks.button("", () => ask(open.symptom, open.applied ? open.told.next ?? open.step : open.told.next));
    box.again = blocks.button(t("The same once more"), () => ask(open.symptom, open.step));
    box.undo = blocks.button(t("Undo"), () => { blocks.undo(); close(); if (!blocks.boards.live) blocks.boards.tryNow(); });
    box.cancel = blocks.button(t("Not this"), close);
    box.proposal = make("div", { class: "train-lora-blocks-proposal" }, box.reason, box.lines, box.held,
      make("div", { class: "train-lora-blocks-set" }, box.apply, box.amount, box.next, box.again, box.undo, box.cancel));
    box.append(make("b", {}, t("What is wrong with the picture?")), box.chips, box.hint, box.proposal);
    return box;
  }

  async function load() {
    asking = true;
    known = await blocks.guarded(() => get("blocks/advice"));
    if (known) amount = known.amount;
    if (!known) setTimeout(() => { asking = false; }, 4000);
  }

  function draw(box) {
    if (!known && !asking) load();
    show(box, Boolean(known) && known.families.includes(blocks.family()));
    if (!known) return;
    const moves = (text) => message(text).replace(/ up\b/g, " ↑").replace(/ down\b/g, " ↓").replace(/ and /g, ", "); // `GP1 04–07 down and GP2 04–07 down`
    list(box.chips, known.symptoms, (one) => one.key, (one) => blocks.button(message(one.label), () => (open && open.symptom === one.key && !open.applied ? close() : ask(one.key)), { "data-symptom": one.key, title: one.steps.map((step, n) => `${n + 1}. ${moves(step.text)}`).join("\n") }));
    for (const chip of box.chips.children) mark(chip, "aria-pressed", Boolean(open) && open.symptom === chip.dataset.symptom);
    show(box.proposal, Boolean(open));
    const taken = state.mix.loras.some((one) => one.unet < 0 && !one.hidden);
    say(box.hint, open ? "" : taken ? t("Choose one: what to change is shown on the columns first.")
      : t("Choose one: what to change is shown on the columns first. The method works best with a LoRA of the checkpoint's own style taken away: add one with strength −1."));
    show(box.hint, !open);
    if (!open) return;
    const { told } = open, steps = symptom(open.symptom).steps.length;
    say(box.reason, `${steps > 1 ? t("Step {step} of {count}. ", { step: open.step + 1, count: steps }) : ""}${message(`${told.reason}.`)}`);
    fill(box.lines, JSON.stringify(told.changes), () => lines(told).map(({ place, text }) => make("li", { style: `--mix: ${blocks.colour(place)}` }, text)));
    const held = Object.entries(told.held);
    show(box.held, held.length > 0);
    say(box.held, held.length ? t("Not moved: {what}.", { what: held.map(([name, why]) => `${name} (${message(why)})`).join(", ") }) : "");
    show(box.apply, !open.applied && told.changes.length > 0);
    show(box.amount, !open.applied);
    if (box.amount.value !== String(amount)) box.amount.value = String(amount);
    show(box.next, told.next !== null && told.next !== undefined);
    say(box.next, open.applied ? t("Not enough: next step") : t("Next step instead"));
    show(box.again, open.applied);
    show(box.undo, open.applied && blocks.done.length === open.depth);
    say(box.cancel, open.applied ? t("Good now") : t("Not this"));
  }

  blocks.part("advice", "advice", { build, draw });
  Object.assign(blocks, { advise: ask });
})();
