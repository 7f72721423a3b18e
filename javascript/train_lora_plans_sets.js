// Sets of pictures that the checkpoint draws: regularisation, pictures to learn, and the checkpoint's own style, which
// is drawn, trained and handed to the block editor in one go.
(() => {
  "use strict";
  const lora = window.trainLora, plans = lora && lora.plans;
  if (!plans || plans.sets) return;
  const { t, message, make, say, show, mark, count } = lora;
  const { own, button, link, asItIs, field, number, choice, tell, box, progress } = plans;
  plans.sets = true;
  let part = null, project = null, known = null, base = null, recent = null, touched = false, filled = "", asked = 0;
  const handled = new Set(), drawn = new Map();

  function build(pane) {
    const made = {}, put = (name, child) => (made[name] = child);
    const size = (name) => put(name, number("", { min: 64, max: 2048, step: 8, class: "train-lora-pl-short" }));
    pane.replaceChildren(
      put("problem", box()),
      put("task", progress()).element,
      own("div", "sets", {},
        own("section", "card-box", { "aria-labelledby": "train_lora_plan_reg" },
          make("h4", { id: "train_lora_plan_reg" }, t("A set for regularisation")),
          make("p", { class: "train-lora-hint" }, t("Pictures of what the person or thing is one of, such as any woman, so that the word keeps its meaning. Their folder has the concept's name.")),
          own("div", "numbers", {},
            field(t("Used for"), put("kind", choice([["reg", t("regularisation")], ["concept", t("learning")]], "reg", t("Used for"), kindChanged))),
            field(t("Concept"), put("name", make("input", { type: "text", maxlength: 80, list: "train_lora_plan_concepts", placeholder: "hina woman", oninput: () => { touched = true; } }))),
            put("names", make("datalist", { id: "train_lora_plan_concepts" })),
            field(t("Pictures"), put("count", number(100, { min: 1, max: 5000 }))),
            field(t("Repeats"), put("repeats", number(1, { min: 1, max: 10000 })))),
          field(t("Prompts, one a line; of {a|b} one is taken"), put("prompts", make("textarea", { rows: 3, placeholder: "photo of a woman, {standing|sitting}, {outdoors|indoors}" }))),
          field(t("Caption of every picture; empty: its prompt"), put("caption", make("input", { type: "text", maxlength: 2000, placeholder: t("such as: woman") }))),
          make("details", {}, make("summary", {}, t("How they are drawn")),
            own("div", "numbers", {},
              field(t("Width"), size("width")), field(t("Height"), size("height")),
              field(t("Steps"), put("steps", number(20, { min: 1, max: 150 }))), field(t("CFG scale"), put("cfg", number(7, { min: 0, max: 100, step: 0.5 }))),
              field(t("Sampler"), put("sampler", choice([["Euler", "Euler"], ["Euler a", "Euler a"], ["DDIM", "DDIM"], ["DPM++ 2M", "DPM++ 2M"]], "Euler", t("Sampler")))),
              field(t("First seed"), put("seed", number(1, { min: 0, max: 4294967295 })))),
            field(t("Negative prompt"), put("negative", make("textarea", { rows: 2 })))),
          put("make", button(t("Draw the set"), start, { class: "train-lora-button train-lora-primary" }))),
        own("section", "card-box", { "aria-labelledby": "train_lora_plan_base" },
          make("h4", { id: "train_lora_plan_base" }, t("The checkpoint's own style")),
          make("p", { class: "train-lora-hint" }, t("One LoRA of how the checkpoint itself draws. Taken away from a style's LoRA block by block, it leaves more of the style and less of the checkpoint.")),
          own("ol", "steps", {},
            put("step1", make("li", {}, make("span", {}, t("Draw faces, half figures and whole figures")))),
            put("step2", make("li", {}, make("span", {}, t("Train a LoRA on them, eight epochs")))),
            put("step3", make("li", {}, make("span", {}, t("Take it into the block editor"))))),
          own("div", "numbers", {},
            field(t("Pictures"), put("baseCount", number(60, { min: 12, max: 5000 }))),
            field(t("About this many pixels each way"), put("side", number("", { min: 64, max: 2048, step: 8 })))),
          field(t("What is drawn; of {a|b} one is taken"), put("subject", make("textarea", { rows: 2 }))),
          own("div", "row", {},
            put("base", button(t("Draw it and train it"), () => train(false), { class: "train-lora-button train-lora-primary" })),
            put("again", button(t("Draw a new set"), () => train(true), { hidden: true }))),
          put("baseStrip", own("div", "strip", {})),
          put("lora", own("div", "lora", { hidden: true })))),
      put("listHead", make("h4", { hidden: true }, t("Sets of this project"))),
      put("list", own("div", "list", {})));
    part = made;
    touched = false;
    filled = "";
    return made;
  }

  function kindChanged(kind) {
    say(part.make, kind === "reg" ? t("Draw the set") : t("Draw the set to learn"));
  }

  // What there is

  async function draw(found) {
    if (!found || !project || found.id !== project.id) known = null;
    project = found;
    const turn = ++asked;
    try {
      const style = await lora.get("sets/base-style"), made = found ? await lora.get(`sets/${found.id}/made`) : null;
      if (turn !== asked) return; // of another project by now
      [base, known] = [style, made];
      tell(part.problem, !base.can ? [base.name ? t("This WebUI can't draw single pictures for us.") : t("No checkpoint is chosen; choose one at the top.")] : []);
    } catch (error) {
      if (turn === asked) tell(part.problem, lora.problems(error));
      return;
    }
    fill();
  }

  function fill() {
    part.make.disabled = !known || !known.can;
    part.base.disabled = !base.can;
    if (known) {
      lora.fill(part.names, JSON.stringify(known.concepts), () => known.concepts.map((name) => make("option", { value: name })));
      for (const name of ["width", "height"]) if (!part[name].value) part[name].value = known.side;
      if (!part.negative.value) part.negative.value = known.negative_prompt;
      if (!touched && filled !== project.id && known.concepts.length) {
        filled = project.id; // what nobody typed is the project's
        part.name.value = known.concepts[0];
        const word = known.concepts[0].split(" ").length > 1 ? known.concepts[0].split(" ").pop() : "";
        if (!part.prompts.value && word) part.prompts.value = `photo of a ${word}, {standing|sitting|portrait}, {outdoors|indoors}`;
      }
    }
    if (!part.side.value) part.side.value = base.side || 512;
    if (!part.subject.value) part.subject.value = base.subject || "";
    drawBase();
    const rows = known ? known.sets : [];
    show(part.listHead, rows.length > 0);
    lora.list(part.list, rows, (row) => row.id, row);
    for (const one of rows) paint([...part.list.children].find((child) => child.dataset.key === one.id), one, project.id);
  }

  // One set of the list, and pictures of it
  function row() {
    const at = { bar: make("i"), words: make("span"), folders: asItIs(""), strip: own("div", "strip", {}), buttons: make("span", { class: "train-lora-buttons" }) };
    const element = own("article", "set", {}, own("header", "set-head", {}, make("b", {}, at.folders), at.words, at.buttons), make("div", { class: "train-lora-bar" }, at.bar), at.strip);
    element.trainLoraAt = at;
    return element;
  }

  function paint(element, one, of) {
    const at = element.trainLoraAt, running = recent && recent.state === "running" && recent.set === one.id;
    const made = running ? recent.done : one.made;
    say(at.folders, one.folders.join(", "));
    say(at.words, t("{made} of {count} pictures", { made: count(made), count: count(one.count) }) + (one.checkpoint ? ` · ${one.checkpoint}` : ""));
    at.bar.style.width = `${(100 * made) / Math.max(1, one.count)}%`;
    show(element.querySelector(".train-lora-bar"), !one.whole);
    lora.fill(at.buttons, JSON.stringify([one.whole, running, one.made > 0]), () => running ? [] : [
      !one.whole && button(one.made ? t("Go on") : t("Draw it"), () => post(`sets/${of}/go-on`, { set: one.id }, one.id)),
      link(t("Off the list"), () => lora.post(`sets/${of}/forget`, { set: one.id }).then(() => draw(project)), { title: t("Its pictures stay.") }),
    ]);
    strip(at.strip, one, of);
  }

  async function strip(element, one, of) {
    const key = `${of} ${one.id} ${one.made}`;
    if (drawn.get(element) === key || !one.made) return;
    drawn.set(element, key);
    try {
      const page = await lora.get(`pictures/${of}/page?limit=500&search=${encodeURIComponent(`${one.id}_`)}`);
      const latest = page.pictures.filter((picture) => one.folders.some((folder) => folder.endsWith(picture.concept))).slice(-14).reverse();
      lora.list(element, latest, (picture) => picture.id, (picture) => make("img", { src: `${lora.API}pictures/${of}/thumbnails/${picture.id}/128.jpg?blank=1`, alt: picture.name, title: picture.name, loading: "lazy" }));
    } catch { /* no pictures to show then */ }
  }

  // Starting

  async function post(path, body, set = "") {
    try {
      const told = await plans.start(path, body, part.problem);
      recent = { id: told.task, set: told.set || set, project: told.project, state: "running", done: 0 };
      tell(part.problem, []);
      await draw(project);
      lora.look();
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  const whole = (input) => (input.value === "" ? null : Math.round(Number(input.value)));

  function start() {
    const lines = part.prompts.value.split("\n").map((line) => line.trim()).filter(Boolean), caption = part.caption.value.trim();
    post(`sets/${project.id}/make`, {
      kind: part.kind.value, name: part.name.value, prompts: lines, count: whole(part.count), repeats: whole(part.repeats), width: whole(part.width), height: whole(part.height),
      caption: caption || null, negative_prompt: part.negative.value, seed: whole(part.seed), steps: whole(part.steps), cfg_scale: Number(part.cfg.value), sampler: part.sampler.value,
    });
  }

  function train(again) {
    const side = whole(part.side);
    post("sets/base-style", { count: whole(part.baseCount), ...(side ? { side } : {}), subject: part.subject.value, again });
  }

  // The checkpoint's own style, step by step

  function drawBase() {
    const set = base.sets[0], status = lora.status() || {};
    const job = [status, ...(status.queue || [])].find((one) => one && one.name === base.name && ["queued", "starting", "training", "pausing", "grid"].includes(one.state));
    const drawing = recent && recent.state === "running" && set && recent.set === set.id && recent.project === base.project;
    const made = drawing ? recent.done : set ? set.made : 0;
    const states = [set && made >= set.count ? "done" : drawing ? "now" : "", job ? "now" : base.lora ? "done" : "", base.lora ? "now" : ""];
    ["step1", "step2", "step3"].forEach((name, index) => mark(part[name], "data-state", states[index]));
    say(part.step1.firstChild, t("Draw faces, half figures and whole figures") + (set ? ` (${count(made)} / ${count(set.count)})` : ""));
    say(part.step2.firstChild, t("Train a LoRA on them, eight epochs") + (job ? ` (${t(job.state === "queued" ? "waiting" : "under way")})` : ""));
    show(part.again, Boolean(set) && !drawing);
    say(part.base, set && !set.whole ? t("Go on drawing, then train it") : set ? t("Train it again") : t("Draw it and train it"));
    part.base.classList.toggle("train-lora-primary", !base.lora);
    part.base.disabled = !base.can || Boolean(drawing) || Boolean(job);
    if (set && base.project) strip(part.baseStrip, { ...set, made }, base.project);
    show(part.lora, Boolean(base.lora));
    if (base.lora) lora.fill(part.lora, base.lora, () => [
      make("p", {}, make("b", {}, t("It is trained:")), " ", asItIs(base.lora)),
      make("p", {}, t("In a recipe it is taken away with a negative strength, LORA being yours:")),
      make("pre", {}, base.recipe),
      own("div", "row", {}, button(t("Into the block editor"), intoEditor, { class: "train-lora-button train-lora-primary" })),
    ]);
  }

  // The editor gets it beside what it has, taken away with the weights that are usual for it.
  async function intoEditor() {
    lora.step("blocks");
    for (let tries = 0; tries < 120 && !lora.blocks?.state?.ready; tries += 1) await new Promise((resolve) => setTimeout(resolve, 125));
    const blocks = lora.blocks;
    if (!blocks?.state?.ready || blocks.state.mix.loras.some((one) => one.name === base.lora)) return;
    try {
      const { loras: [one] } = await lora.post("blocks/parse", { text: `${base.lora}:-1:GP2` });
      await blocks.loadFiles();
      if (one.preset) blocks.state.origins[one.name] = one.preset;
      await blocks.add(one.name, { te: one.te, unet: one.unet, weights: one.weights, preset: one.preset });
    } catch (error) {
      lora.step("pictures");
      tell(part.problem, lora.problems(error));
    }
  }

  function task(one) {
    if (!part || !["set", "base-style"].includes(one.kind)) return;
    const result = one.result;
    if (one.state === "running" || (recent && recent.id === one.id)) recent = { ...(recent && recent.id === one.id ? recent : {}), ...result, id: one.id, state: one.state, done: one.done };
    part.task.draw(one, (now) => t("{done} of {total} pictures drawn", { done: count(now.done), total: count(now.total) }));
    if (base && one.state === "running" && known) fill();
    if (one.state === "running" || handled.has(one.id)) return;
    handled.add(one.id);
    if (one.error) tell(part.problem, [message(one.error)]);
    if (!result || result.count === undefined) {
      draw(project).then(() => one.error && tell(part.problem, [message(one.error)]));
      return;
    }
    if (project && result.project === project.id && result.entry !== null) plans.written();
    draw(project).then(() => {
      if (result.job) tell(part.problem, [t("The set is drawn and its training is in the queue; the step Training shows it.")], "ok");
      else if (result.whole) tell(part.problem, [t("The set is drawn.")], "ok");
      else if (result.stopped) tell(part.problem, [t("Stopped at {made} of {count} pictures; it goes on from there.", { made: count(result.made), count: count(result.count) })], "note");
    });
  }

  // The training of the own style begins and ends without us.
  let seen = "";
  lora.onStatus((status) => {
    if (!part || !base) return;
    const key = `${status.name} ${status.state} ${(status.queue || []).length}`;
    if (key === seen) return;
    seen = key;
    draw(project);
  });

  plans.add("sets", {
    title: /* t */ "Pictures drawn by the checkpoint", hint: /* t */ "The loaded checkpoint draws whole sets, with captions: for regularisation, to be learnt, or of its own style.", alone: true,
    build, draw, task, forget: () => { part = null; },
  });
})();
