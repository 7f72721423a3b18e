// The LoRAs of a mix: which there are, which one is in front, how strong each is.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.picker) return;
  const { t, make, say, show, mark, list } = lora;
  const { state } = blocks;
  const MOST = 40, COLOURS = 6;

  const colour = (index) => `var(--train-lora-mix-${(index % COLOURS) + 1})`;
  const when = (seconds) => new Date(1000 * (seconds || 0)).toLocaleDateString([], { dateStyle: "medium" });

  // A field to search in and the files that are found, the newest first. usable: files that can be chosen; only:
  // what to say where none can, and the others aren't shown.
  function picker(choose, usable = () => true, only = "") {
    const found = make("div", { class: "train-lora-blocks-files", role: "list" });
    const words = make("input", { type: "search", placeholder: t("Search"), "aria-label": t("Search the LoRAs"), autocomplete: "off" });
    const none = make("p", { class: "train-lora-hint" });
    const box = make("div", { class: "train-lora-blocks-picker" }, words, found, none);
    const here = () => {
      const asked = words.value.trim().toLowerCase();
      const found = (state.files || []).filter((one) => one.name.toLowerCase().includes(asked)), fits = found.filter((one) => !one.problem && usable(one));
      return only ? fits : [...fits, ...found.filter((one) => !fits.includes(one))];
    };
    words.addEventListener("input", () => box.update());
    words.addEventListener("keydown", (event) => { if (event.key === "Enter" && here().length && !found.firstChild.disabled) choose(here()[0].name); });
    box.update = () => {
      const files = here();
      list(found, files.slice(0, MOST), (one) => one.name, (one) => make("button", { type: "button", role: "listitem", class: "train-lora-blocks-file", title: one.problem ? lora.message(one.problem) : one.name, onclick: () => choose(one.name) },
        make("b", {}, blocks.stem(one.name)), make("small", {}, [one.problem ? t("can't be used") : one.family, when(one.modified)].filter(Boolean).join(" · "))));
      [...found.children].forEach((button, n) => { button.disabled = Boolean(files[n].problem) || !usable(files[n]); });
      show(none, !files.length);
      say(none, only && !words.value.trim() ? only : t("No LoRA has this in its name."));
      show(words, (state.files || []).length > 8);
    };
    box.focusWords = () => (words.hidden ? found.querySelector("button") : words)?.focus({ preventScroll: true });
    return box;
  }

  // Nothing chosen yet

  blocks.part("start", "start", {
    build() {
      const box = make("div", {});
      box.files = picker((name) => blocks.add(name));
      box.some = make("div", { class: "train-lora-blocks-begin" }, make("h3", {}, t("Which LoRA do you want to tune?")),
        make("p", { class: "train-lora-hint" }, t("Each part of the model, block by block, can follow the LoRA more or less. Move a column, look at the picture, keep what is better, and make one file of it.")), box.files,
        make("p", { class: "train-lora-hint" }, t("Or paste a prompt or a recipe that you have, such as Test0:1:GP1,BASE:-1:GP2. "), make("button", { type: "button", class: "train-lora-link", onclick: () => blocks.openPaste() }, t("Paste …"))));
      box.none = make("div", { class: "train-lora-empty" }, make("strong", {}, t("There is no LoRA yet.")),
        make("span", {}, t("A LoRA that you train appears here by itself, as does one that you put into the WebUI's LoRA folder.")),
        make("span", {}, blocks.button(t("Go to Training"), () => lora.step("training")), " ", blocks.button(t("Look again"), () => blocks.loadFiles().catch(blocks.complain))));
      box.append(box.some, box.none);
      return box;
    },
    draw(box) {
      const some = (state.files || []).length > 0;
      show(box.some, some);
      show(box.none, !some);
      box.files.update();
    },
  });

  // The strips

  function strip(index) {
    const one = () => state.mix.loras[index];
    const weak = (name) => (value) => blocks.edit(t("Strength of {name}", { name: blocks.stem(one().name) }), () => {
      if (one().te === one().unet) one().te = one().unet = value;
      else one()[name] = value;
    }, `strength-${index}-${name}`);
    const apart = (name) => (value) => blocks.edit(t("Strength of {name}", { name: blocks.stem(one().name) }), () => { one()[name] = value; }, `strength-${index}-${name}`);
    const box = make("div", { class: "train-lora-blocks-strip", style: `--mix: ${colour(index)}` });
    box.front = make("button", { type: "button", class: "train-lora-blocks-name", onclick: () => { state.active = index; blocks.remember(); blocks.redraw(); } }, make("b", {}));
    box.both = blocks.numberField({ "aria-label": t("Strength") }, () => one().unet, weak("unet"));
    box.te = blocks.numberField({ "aria-label": t("Strength in the words (text encoder)") }, () => one().te, apart("te"));
    box.unet = blocks.numberField({ "aria-label": t("Strength in the picture (UNet)") }, () => one().unet, apart("unet"));
    box.one = make("label", { class: "train-lora-blocks-strength" }, make("span", {}, t("Strength")), box.both);
    box.two = make("span", { class: "train-lora-blocks-set" },
      make("label", { class: "train-lora-blocks-strength", title: t("Text encoder") }, make("span", {}, t("Words")), box.te),
      make("label", { class: "train-lora-blocks-strength", title: t("UNet") }, make("span", {}, t("Picture")), box.unet));
    box.split = make("button", { type: "button", class: "train-lora-link", onclick: () => { box.open = !box.open; if (!box.open) apart("te")(one().unet); blocks.redraw(); } });
    box.eye = make("input", { type: "checkbox", "aria-label": t("On"), onchange: () => blocks.edit(t("On or off"), () => { one().hidden = !box.eye.checked; }) });
    box.away = make("button", { type: "button", class: "train-lora-blocks-small", title: t("Take it out of the mix"), "aria-label": t("Take it out of the mix"), onclick: () => blocks.remove(index) }, "×");
    box.note = make("small", {});
    box.recipe = make("button", { type: "button", class: "train-lora-link", title: t("It was baked here: open what it was made of"), onclick: () => blocks.openRecipe(one().name) }, t("Open its recipe"));
    box.append(box.eye, box.front, box.note, box.recipe, box.one, box.two, box.split, box.away);
    box.update = () => {
      const it = one(), known = blocks.detail(it.name), split = box.open || it.te !== it.unet;
      say(box.front.lastChild, blocks.stem(it.name));
      mark(box.front, "title", it.name);
      mark(box.front, "aria-pressed", index === state.active);
      mark(box, "data-front", index === state.active);
      mark(box, "data-off", Boolean(it.hidden));
      say(box.note, it.hidden ? t("off") : known ? "" : state.details.has(it.name) ? t("not in the folder") : t("reading …"));
      show(box.recipe, Boolean(known && known.recipe));
      show(box.one, !split);
      show(box.two, split);
      [box.both, box.te, box.unet].forEach((field) => field.update());
      say(box.split, split ? t("together") : t("TE/UNet"));
      const told = split ? t("One strength for words and picture") : t("Words and picture apart");
      mark(box.split, "title", told);
      box.eye.checked = !it.hidden;
      mark(box.eye, "title", it.hidden ? t("Off: not in the pictures nor in the bake. Click to switch it on.") : t("On. Click to leave it out for a moment."));
    };
    return box;
  }

  blocks.part("loras", "loras", {
    build() {
      const box = make("div", { class: "train-lora-blocks-strips" });
      box.rows = make("div", { class: "train-lora-blocks-rows" });
      box.files = picker(async (name) => { if (await blocks.add(name)) open(false); }, (one) => one.family === blocks.family());
      const open = (is) => { show(box.files, is); mark(box.more, "aria-expanded", is); if (is) { box.files.update(); box.files.focusWords(); } };
      box.more = blocks.button(t("+ Add a LoRA"), () => { if (box.files.hidden) blocks.loadFiles().catch(blocks.complain); open(box.files.hidden); }, { "aria-expanded": "false" });
      box.files.addEventListener("keydown", (event) => { if (event.key === "Escape") { open(false); box.more.focus(); } });
      box.files.hidden = true;
      box.append(box.rows, box.more, box.files);
      return box;
    },
    draw(box) {
      list(box.rows, state.mix.loras.map((_, index) => index), (index) => index, strip);
      for (const row of box.rows.children) row.update();
      say(box.more, state.mix.loras.length === 1 ? t("+ Add a LoRA, also to take it away from this one") : t("+ Add a LoRA"));
      if (!box.files.hidden) box.files.update();
    },
  });

  Object.assign(blocks, { picker, colour });
})();
