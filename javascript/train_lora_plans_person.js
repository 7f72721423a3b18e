// The planner of a person: steps from repeats and epochs, and backwards; several concepts; regularisation to match.
(() => {
  "use strict";
  const lora = window.trainLora, plans = lora && lora.plans;
  if (!plans || plans.person) return;
  const { t, message, make, say, show, count } = lora;
  const { own, button, link, asItIs, field, number, choice, tell, box } = plans;
  plans.person = true;
  let part = null, project = null, rows = [], epochs = 10, batch = 1, steps = null, by = "repeats", timer = 0, asked = 0, known = [];

  function build(pane) {
    const made = {}, put = (name, child) => (made[name] = child);
    pane.replaceChildren(
      put("problem", box()),
      own("div", "person", {},
        own("div", "left", {},
          own("div", "scroll", {}, put("table", make("table", { class: "train-lora-pl-table train-lora-pl-concepts" }))),
          own("div", "row", {}, button(t("Add a concept"), () => { rows.push({ name: "", pictures: 10, repeats: 10, reg: 0 }); table(); ask("steps"); })),
          make("p", { class: "train-lora-hint" }, t("Each concept is a folder of its own: the face, the body, clothes, shoes. Regularisation pictures get the same name, and as many repeats as make them as many."))),
        own("aside", "side", { "aria-label": t("The plan") },
          own("div", "numbers", {},
            field(t("Epochs"), put("epochs", number(epochs, { min: 1, max: 10000 }, (value) => { epochs = value; ask("steps"); }))),
            field(t("Batch size"), put("batch", number(batch, { min: 1, max: 1024 }, (value) => { batch = value; ask("steps"); }))),
            field(t("Steps in all"), put("steps", number("", { min: 1 }, (value) => { steps = value; ask(by); }))),
            field(t("A number of steps changes"), put("by", choice([["repeats", t("the repeats")], ["epochs", t("the epochs")]], by, t("A number of steps changes"), (value) => { by = value; })))),
          put("sum", own("div", "formula", {})),
          put("notes", own("ul", "rules", {})),
          put("write", button(t("Give the folders these repeats"), write, { class: "train-lora-button train-lora-primary", disabled: true })),
          put("what", make("p", { class: "train-lora-hint" })),
          put("done", make("div", { class: "train-lora-box", "data-kind": "ok", role: "status", hidden: true })))));
    part = made;
    table();
    return made;
  }

  async function draw(found, changed) {
    if (!found || (!changed && project && project.id === found.id)) return;
    const same = project && project.id === found.id;
    project = found;
    try {
      const told = await lora.get(`sets/${project.id}/person`);
      known = told.parts.map((one) => one.name);
      if (!same || !rows.length) {
        rows = told.parts.length ? told.parts.map((one) => ({ ...one })) : [{ name: "", pictures: 20, repeats: 10, reg: 0 }];
        epochs = Number(plans.valueOf("max_train_epochs")) || 10;
        batch = Number(plans.valueOf("train_batch_size")) || 1;
        part.epochs.value = epochs;
        part.batch.value = batch;
      }
      table();
      ask("steps");
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  function table() {
    const head = [t("Concept"), t("Pictures"), t("Repeats"), t("Regularisation"), t("Folder"), ""];
    const body = rows.map((row, index) => {
      const edit = (name, more) => number(row[name], { min: 0, ...more, "aria-label": `${t(more.label)}, ${row.name}` }, (value) => { row[name] = value; ask("steps"); });
      const name = make("input", { type: "text", maxlength: 80, value: row.name, placeholder: "hina woman", "aria-label": t("Concept") });
      name.addEventListener("input", () => { row.name = name.value.trim(); ask("steps"); });
      row.box = edit("repeats", { min: 1, label: /* t */ "Repeats" });
      row.at = make("td", {}, "");
      return make("tr", {}, make("td", {}, name), make("td", {}, edit("pictures", { min: 1, label: /* t */ "Pictures" })), make("td", {}, row.box),
        make("td", {}, edit("reg", { label: /* t */ "Regularisation" })), row.at,
        make("td", {}, rows.length > 1 && link("×", () => { rows.splice(index, 1); table(); ask("steps"); }, { "aria-label": t("Remove this concept"), title: t("Remove this concept") })));
    });
    part.table.replaceChildren(make("thead", {}, make("tr", {}, ...head.map((text) => make("th", {}, text)))), make("tbody", {}, ...body));
  }

  function ask(find) {
    clearTimeout(timer);
    timer = setTimeout(() => reckon(find), 200);
  }

  const named = () => rows.filter((row) => row.name);

  const body = (find) => ({
    parts: named().map(({ name, pictures, repeats, reg }) => ({ name, pictures, repeats, reg: reg || 0 })),
    ...(epochs === null ? {} : { epochs }), ...(batch === null ? {} : { batch_size: batch }), ...(find === "steps" || steps === null ? {} : { steps, find }),
  });

  async function reckon(find) {
    if (!project || !named().length) {
      part.write.disabled = true;
      return;
    }
    const turn = ++asked;
    try {
      const plan = await lora.post(`sets/${project.id}/person`, body(find));
      if (turn !== asked) return;
      tell(part.problem, []);
      put(plan, find);
    } catch (error) {
      if (turn === asked) {
        tell(part.problem, lora.problems(error));
        part.write.disabled = true;
      }
    }
  }

  function put(plan, find) {
    plan.folders.forEach((one) => {
      const row = rows.find((other) => other.name === one.name);
      if (!row) return;
      row.repeats = one.repeats;
      if (document.activeElement !== row.box) row.box.value = one.repeats;
      row.at.replaceChildren(asItIs(one.folder), ...(one.reg_folder ? [make("br"), make("small", { "data-as-it-is": true }, `reg/${one.reg_folder}`)] : []));
    });
    epochs = plan.epochs;
    if (document.activeElement !== part.epochs) part.epochs.value = epochs;
    if (find === "steps") steps = null;
    if (document.activeElement !== part.steps) part.steps.value = plan.steps;
    const learnt = plan.folders.map((one) => `${one.pictures} × ${one.repeats}`).join(" + ");
    const reg = plan.folders.some((one) => one.reg);
    part.sum.replaceChildren(
      make("strong", {}, t("{steps} steps", { steps: count(plan.steps) })),
      make("span", { "data-as-it-is": true }, `${plan.folders.length > 1 ? `(${learnt})` : learnt}${reg ? " × 2" : ""} × ${plan.epochs}${plan.batch_size > 1 ? ` ÷ ${plan.batch_size}` : ""}`),
      make("span", {}, t("{steps} an epoch", { steps: count(plan.steps_per_epoch) })));
    lora.fill(part.notes, JSON.stringify(plan.notes), () => plan.notes.map((note) => make("li", { "data-kept": "note" }, message(note))));
    const there = rows.filter((row) => known.includes(row.name));
    part.write.disabled = !there.length;
    say(part.what, there.length
      ? t("Folders of the project get these repeats in their names; pictures from elsewhere are copied into it. Epochs and batch size go into the training. It can be undone.")
      : t("None of these concepts is in the project yet, so there are no folders to name."));
  }

  async function write() {
    try {
      const told = await lora.post(`sets/${project.id}/person/write`, body("steps"));
      await plans.written();
      plans.take(told.fields);
      const renamed = told.renamed.map(([before, after]) => make("li", {}, asItIs(`${before} → ${after}`)));
      const copied = told.copied.map((name) => make("li", {}, asItIs(name), " ", make("small", {}, t("copied"))));
      part.done.replaceChildren(
        make("p", {}, make("b", {}, told.entries.length ? t("The folders have these repeats.") : t("The folders have these repeats already."))),
        make("ul", {}, ...renamed, ...copied),
        own("div", "row", {}, told.entries.length ? button(t("Undo"), () => takeBack(told.entries)) : null, button(t("On to the captions"), null, { "data-step": "captions" })));
      show(part.done, true);
      plans.again();
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  async function takeBack(entries) {
    try {
      for (const change of entries) await lora.post(`pictures/${project.id}/undo`, { change });
      show(part.done, false);
      tell(part.problem, [t("The folders are as they were before.")], "note");
      plans.written();
      plans.again();
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  plans.add("person", {
    title: /* t */ "A person", hint: /* t */ "Steps from repeats and epochs, and backwards; 3000 to 5000 steps in 5 to 10 epochs are common.",
    build, draw, forget: () => { part = null; },
  });
})();
