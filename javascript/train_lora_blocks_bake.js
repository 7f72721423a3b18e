// One file of the present numbers: its name, how exact, what came of it block by block; and the way back to its recipe.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.openRecipe) return;
  const { t, make, say, show, mark, get, post, problems, message } = lora;
  const { state, rules } = blocks;
  const LOOK = 500; // milliseconds between two looks at a task
  const PRECISIONS = ["fp16", "bf16", "float"];
  let task = null, failure = null, edited = false, drawn = null;

  const suggested = () => `${blocks.stem((state.mix.loras.find((one) => one.unet > 0) || state.mix.loras[0] || { name: "mix" }).name)}-tuned`;
  const percent = (share) => (share === 0 ? "0" : share < 1e-8 ? share.toExponential(1) : `${Number((100 * share).toPrecision(2))} %`);

  async function send(path, body) {
    [task, failure, drawn] = [{ state: "running", done: 0, total: 0 }, null, null];
    blocks.redraw();
    try {
      follow((await post(path, body)).task);
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      [task, failure] = [null, error];
      blocks.redraw();
    }
  }

  async function follow(id) {
    try {
      const found = ((await get("status")).tasks || []).find((one) => one.id === id);
      if (found) task = found;
      else if (task) task = { ...task, state: "failed", error: t("The task is not known any more.") };
    } catch { /* the next look asks again */ }
    if (!task || task.state === "running") setTimeout(() => follow(id), LOOK);
    else if (task.state === "done") blocks.loadFiles().catch(blocks.complain);
    blocks.redraw();
  }

  function limitOf(box) {
    const kind = box.limits.find((one) => one.checked).value, value = rules.parseNumber(box.most.value.replace(",", "."));
    if (kind === "exact") return { exact: true };
    return { [kind]: kind === "rank" ? Math.round(value ?? 0) : (value ?? 0) / 100 };
  }

  function bake(box) {
    const { find, shown, picture } = blocks.boards, one = find(shown);
    const body = { mix: blocks.told(), name: box.name.value.trim(), precision: box.precision.value, overwrite: box.overwrite.checked };
    if (box.target.value === "checkpoint") {
      send("blocks/into_checkpoint", { mix: body.mix, name: body.name, overwrite: body.overwrite });
      return;
    }
    body.limit = limitOf(box);
    if (box.preview.checked && one && (one.pictures || [])[picture]) body.preview_try = { board: blocks.boards.board.id, try: one.id, picture };
    if (box.words.value.trim()) body.activation_text = box.words.value.trim();
    send("blocks/bake", body);
  }

  // The recipe that a baked file keeps: its LoRAs and numbers, as they were.
  async function openRecipe(name) {
    const told = await blocks.guarded(() => get(`blocks/recipe?name=${encodeURIComponent(name)}`));
    if (!told) return false;
    const missing = new Set(told.missing);
    blocks.replace(t("Recipe of {name}", { name: blocks.stem(name) }), { loras: told.mix.loras.filter((one) => !missing.has(one.name)) });
    const notes = [];
    if (told.missing.length) notes.push(t("Not in the folder any more: {names}.", { names: told.missing.join(", ") }));
    if (told.changed.length) notes.push(t("Another file than then: {names}.", { names: told.changed.join(", ") }));
    if (notes.length) blocks.complain({ status: 422, detail: [{ what: notes.join(" ") }] });
    else blocks.answer(t("The recipe of {name} is open.", { name: blocks.stem(name) }));
    return true;
  }

  // The proof: the file at strength 1, drawn beside what was seen with the numbers.
  function prove(name) {
    const { boards } = blocks;
    boards.pinned = boards.shown;
    blocks.replace(t("The baked file"), { loras: [{ name, te: 1, unet: 1, weights: null, preset: null, hidden: false }] });
    boards.tryNow();
    blocks.stage.compare("slider");
    lora.find("train_lora_blocks_view").scrollIntoView({ block: "start", behavior: "smooth" });
  }

  function field(label, element, more = {}) {
    return make("label", { class: "train-lora-blocks-field", ...more }, make("span", {}, label), element);
  }

  function build() {
    const box = make("section", { class: "train-lora-blocks-bakery" });
    const group = "train-lora-blocks-limit";
    box.target = make("select", { onchange: blocks.redraw }, make("option", { value: "lora" }, t("a LoRA file")), make("option", { value: "checkpoint" }, t("a copy of the checkpoint, with the LoRAs in it")));
    box.name = make("input", { type: "text", spellcheck: "false", autocomplete: "off", oninput: () => { edited = Boolean(box.name.value.trim()); } });
    box.limits = ["exact", "rank", "error"].map((value) => make("input", { type: "radio", name: group, value, checked: value === "exact", onchange: blocks.redraw }));
    const words = { exact: t("Exact"), rank: t("At most rank"), error: t("At most an error of") };
    box.most = make("input", { type: "text", inputmode: "decimal", value: "32", "aria-label": t("Rank, or error in percent") });
    box.unit = make("span", {}, "%");
    box.size = make("fieldset", { class: "train-lora-blocks-set" }, make("legend", {}, t("Size")), box.limits.map((one) => make("label", { class: "train-lora-blocks-live" }, one, words[one.value])), box.most, box.unit);
    box.precision = make("select", {}, PRECISIONS.map((name) => make("option", { value: name }, name)));
    box.words = make("input", { type: "text", spellcheck: "false", placeholder: t("trigger word") });
    box.preview = make("input", { type: "checkbox", checked: true });
    box.overwrite = make("input", { type: "checkbox" });
    box.previewLine = make("label", { class: "train-lora-blocks-live" }, box.preview, make("span", {}));
    box.go = blocks.button("", () => bake(box), { class: "train-lora-grid-button train-lora-grid-primary" });
    box.bar = make("div", { class: "train-lora-bar", hidden: true }, make("i"));
    box.alarm = make("p", { class: "train-lora-grid-alarm", role: "alert", hidden: true });
    box.result = make("div", { class: "train-lora-blocks-result" });
    box.recipes = blocks.picker(async (name) => { if (await openRecipe(name)) box.open.open = false; }, (one) => one.baked, t("No file of the folder was baked here yet."));
    box.open = make("details", { class: "train-lora-help", ontoggle: blocks.redraw }, make("summary", {}, t("Open the recipe of a file that was baked here")), box.recipes);
    box.lora = [field(t("Saved as"), box.precision), field(t("Activation text of its card"), box.words)];
    box.append(make("p", { class: "train-lora-hint" }, t("What you see is what is baked: at strength 1 the file gives the same picture as these numbers do, within the rounding of fp16. Strengths, also negative ones, are inside.")),
      make("div", { class: "train-lora-blocks-form" }, field(t("Make"), box.target), field(t("Name"), box.name), ...box.lora), box.size,
      make("div", { class: "train-lora-blocks-set" }, box.previewLine, make("label", { class: "train-lora-blocks-live" }, box.overwrite, t("Replace a file of that name"))),
      make("div", { class: "train-lora-blocks-set" }, box.go), box.bar, box.alarm, box.result, box.open, buildResize());
    return box;
  }

  // One LoRA at another rank
  function buildResize() {
    const box = make("details", { class: "train-lora-help" }, make("summary", {}, t("Make the LoRA in front smaller")));
    const rank = make("input", { type: "text", inputmode: "numeric", value: "32" }), name = make("input", { type: "text", spellcheck: "false", placeholder: t("name of the new file") });
    const go = blocks.button(t("Resize"), () => send("blocks/resize", { name: blocks.active().name, out: name.value.trim() || `${blocks.stem(blocks.active().name)}-r${rank.value}`, limit: { rank: Math.round(rules.parseNumber(rank.value) ?? 0) } }));
    box.append(make("div", { class: "train-lora-blocks-form" }, field(t("Rank"), rank), field(t("Name"), name), go));
    return box;
  }

  function draw(box) {
    if (!blocks.opened("bake")) return;
    const busy = Boolean(task) && task.state === "running", checkpoint = box.target.value === "checkpoint";
    if (!edited && document.activeElement !== box.name && box.name.value !== suggested()) box.name.value = suggested();
    const known = blocks.detail((blocks.active() || {}).name);
    if (!box.words.value && known && known.activation_text && document.activeElement !== box.words) box.words.value = known.activation_text;
    const kind = box.limits.find((one) => one.checked).value;
    for (const part of [...box.lora, box.size]) show(part, !checkpoint);
    show(box.most, kind !== "exact");
    show(box.unit, kind === "error");
    if (box.kind !== kind) box.most.value = kind === "error" ? "1" : "32";
    box.kind = kind;
    const one = blocks.boards.find(blocks.boards.shown);
    show(box.previewLine, Boolean(one) && !checkpoint);
    if (one) say(box.previewLine.lastChild, t("Try {number} as its preview picture", { number: one.id }));
    box.go.disabled = busy;
    say(box.go, busy ? t("Working …") : checkpoint ? t("Merge into a checkpoint") : t("Bake"));
    show(box.bar, busy);
    mark(box.bar, "data-unsure", busy && !task.total);
    box.bar.firstChild.style.width = busy && task.total ? `${(100 * task.done) / task.total}%` : "";
    const wrong = failure ? problems(failure).join("\n") : task && task.error ? message(task.error) : "";
    say(box.alarm, wrong);
    show(box.alarm, Boolean(wrong));
    const result = task && task.state === "done" ? task.result : null;
    show(box.result, Boolean(result));
    if (result && drawn !== result) {
      drawn = result;
      box.result.replaceChildren(...told(result));
    }
    if (box.open.open) box.recipes.update();
  }

  function told({ name, path, report, written, picture_kept: kept }) {
    const rows = [...report.blocks, { ...report.total, block: t("Together") }], worst = Math.max(1e-12, ...rows.map((row) => row.relative_error));
    const files = [path, ...(written || [])].map((one) => String(one).split(/[\\/]/).pop());
    const ranks = (row) => (row.rank_min === row.rank_max ? row.rank_min : `${row.rank_min}–${row.rank_max}`);
    const inFolder = (state.files || []).some((one) => one.name === name) || task.kind !== "checkpoint";
    return [
      make("div", { class: "train-lora-box", "data-kind": "ok" }, make("strong", {}, t("{name} is written.", { name })), " ", t("Error in all: {error}.", { error: percent(report.total.relative_error) }),
        make("p", {}, files.join(", ")),
        kept && make("p", {}, t("{picture} was there before and stays: it was not replaced by the preview.", { picture: kept })),
        report.left_out && report.left_out.length > 0 && make("p", {}, t("{count} modules are left out, since their sum is 0.", { count: report.left_out.length })),
        report.unlisted && report.unlisted.length > 0 && make("p", {}, t("Blocks that a short list doesn't name: {blocks}.", { blocks: report.unlisted.join(", ") })),
        inFolder && make("div", { class: "train-lora-buttons" }, blocks.button(t("Draw it beside the numbers"), () => prove(name), { title: t("The baked file at strength 1 against the try that you see") }))),
      make("table", { class: "train-lora-table" }, make("thead", {}, make("tr", {}, [t("Block"), t("Modules"), t("Rank"), t("Size"), t("Relative error"), ""].map((head) => make("th", {}, head)))),
        make("tbody", {}, rows.map((row) => make("tr", {}, make("td", {}, row.block), make("td", {}, String(row.modules)), make("td", {}, String(ranks(row))), make("td", {}, row.norm.toPrecision(3)), make("td", {}, percent(row.relative_error)),
          make("td", {}, make("span", { class: "train-lora-share", style: `width: ${Math.round((100 * row.relative_error) / worst)}%` })))))),
    ];
  }

  blocks.part("bake", "bake", { build, draw });
  Object.assign(blocks, { openRecipe, bake: () => blocks.openFold("bake") });
})();
