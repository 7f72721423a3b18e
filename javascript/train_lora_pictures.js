// The step Pictures: the project, what a scan found, and a table of thumbnails that holds 10,000 pictures and more.
// window.trainLora.project is the open one, {id, folder, image, name}, or null; trainLora.onProject(fn) hears of changes.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.pictures) return;
  const { t, message, find, make, show, say, mark, fill, count } = lora;

  const [BLOCK, KEPT, GAP, CAPTION, WAIT] = [100, 40, 8, 24, 450]; // pictures of a request, requests kept; pixels; milliseconds
  const AUTOMATIC = 1000; // pictures up to which a project is scanned as it is opened
  const SESSION = "train_lora_project";
  const FINDINGS = {
    broken: /* t */ "Can't be used", twice: /* t */ "There twice", alike: /* t */ "Look alike", tiny: /* t */ "Tiny (under 256)",
    small: /* t */ "Small (under 512)", huge: /* t */ "Huge (over 4096)", blurred: /* t */ "Blurred?", grey: /* t */ "Black and white",
    transparent: /* t */ "Transparent", turned: /* t */ "Turned by EXIF", animated: /* t */ "Animated",
    uncaptioned: /* t */ "Without caption", masked: /* t */ "With mask",
  };
  const BAD = ["broken", "twice", "alike", "tiny", "huge", "blurred"];
  const listeners = [];
  const state = {
    told: null, understood: null, asked: "", recent: [], report: null, masks: false, filter: { folder: "", finding: "", search: "" },
    total: 0, rows: new Map(), loading: new Set(), turn: 0, selected: new Set(), last: -1, size: 148, task: null, outcome: null, said: [], wrong: [], busy: false,
  };

  const button = (text, act, more = {}) => make("button", { type: "button", class: "train-lora-button", onclick: act, ...more }, text);
  const raw = (text) => make("span", { "data-as-it-is": true }, text);
  const at = (path) => `pictures/${state.told.id}${path}`;
  const input = (name) => find(`train_lora_${name}`)?.querySelector("input, textarea");

  // Fields of the form

  function field(name, value) {
    const place = input(name);
    if (!place || place.value === value) return;
    const kind = place.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(place, value);
    place.dispatchEvent(new Event("input", { bubbles: true }));
  }

  // The one truth is the form: it gets the folders that train on the project.
  async function fields(masks) {
    const answer = await send(at("/fields"), masks === undefined ? {} : { masks });
    if (!answer) return;
    state.masks = answer.masks;
    state.filled = answer.fields.train_data_dir;
    for (const [name, value] of Object.entries(answer.fields)) field(name, value);
    if (answer.added) {
      await refresh();
      state.said = [answer.added === 1 ? t("1 picture had no mask; it got a white one, which trains all of it.") : t("{count} pictures had no mask; they got white ones, which train all of the picture.", { count: count(answer.added) })];
    }
    draw();
  }

  // Requests whose problems are shown

  async function send(path, body) {
    try {
      const answer = await lora.post(path, body || {});
      state.wrong = [];
      return answer;
    } catch (error) {
      state.wrong = lora.problems(error);
      draw();
      return null;
    }
  }

  function told(lines) {
    state.said = lines;
    draw();
  }

  // Projects

  function announce() {
    const { id, folder, image, name } = state.told || {};
    lora.project = state.told ? { id, folder, image, name } : null;
    for (const listener of listeners) {
      try {
        listener(lora.project);
      } catch (error) { // one listener's mistake must not stop the others
        console.error("Train LoRA, project:", error);
      }
    }
  }

  async function taken(answer, fresh = true) {
    if (!answer) return;
    const former = state.told && state.told.id;
    state.told = answer;
    state.said = answer.said || [];
    if (former !== answer.id || fresh) {
      Object.assign(state, { report: null, outcome: null, filter: { folder: "", finding: "", search: "" }, understood: null });
      state.selected.clear();
      remembered(answer.folder);
    }
    announce();
    await fields();
    if (answer.scanned) await report();
    if (state.report?.counts.pictures !== answer.pictures && answer.pictures && answer.pictures <= AUTOMATIC) scan(true);
    reload();
  }

  function remembered(folder) {
    try {
      if (folder) sessionStorage.setItem(SESSION, folder);
      else sessionStorage.removeItem(SESSION);
    } catch { /* a page may not keep anything */ }
  }

  const open = async (folder) => taken(await send("pictures/open", { folder }));
  const build = async (folder, name = "") => taken(await send("pictures/make", { folder, name }));

  function close() {
    Object.assign(state, { told: null, report: null, said: [], wrong: [] });
    state.selected.clear();
    remembered("");
    announce();
    look();
    draw();
  }

  async function refresh() {
    if (!state.told) return;
    try {
      state.told = { ...(await lora.get(at(""))), said: [] };
    } catch (error) {
      state.wrong = lora.problems(error);
    }
    draw();
  }

  // What the folder in the field is, as it is typed

  let clock = 0;

  function typed() {
    clearTimeout(clock);
    clock = setTimeout(look, WAIT);
  }

  async function look() {
    const folder = input("train_data_dir")?.value.trim() || "";
    if (folder === state.asked) return;
    state.asked = folder;
    state.understood = null;
    if (folder && !ours(folder)) {
      try {
        const found = await lora.post("pictures/understand", { folder });
        if (folder === state.asked) state.understood = found;
      } catch { /* the sum beside the field says what is wrong with it */ }
    }
    draw();
  }

  function ours(folder) {
    const open = state.told;
    const held = open ? [open.folder, open.image, state.filled, ...(open.concepts || []).map((one) => one.path)] : [];
    return held.includes(folder.replace(/[\\/]+$/, ""));
  }

  async function recent() {
    try {
      state.recent = await lora.get("pictures/projects");
    } catch {
      state.recent = [];
    }
    let last = "";
    try {
      last = sessionStorage.getItem(SESSION) || "";
    } catch { /* a page may not keep anything */ }
    if (last && !state.told && !input("train_data_dir")?.value && state.recent.some((one) => one.folder === last)) await open(last);
    draw();
  }

  // The place below the field

  const OFFERS = {
    project: /* t */ "Open the project {name}", image: /* t */ "Open the project {name}", parent: /* t */ "Open the project {name}",
    concept: /* t */ "Make a project with this folder", kohya: /* t */ "Make a project with these folders",
    loose: /* t */ "Make a project with these pictures", empty: /* t */ "Make a project here",
  };

  function drawProject(element) {
    const part = lora.once(element, (place) => {
      const made = {};
      const put = (name, child) => (made[name] = child);
      place.replaceChildren(put("box", make("div", { class: "train-lora-project" })));
      return made;
    });
    const { told, understood, recent } = state;
    const key = JSON.stringify([told && [told.id, told.name, told.folder, state.filled], understood, recent, t("Close")]);
    fill(part.box, key, () => [told ? opened(told) : null, understood ? offer(understood) : null, told ? null : begin()]);
  }

  function opened(told) {
    return make("div", { class: "train-lora-project-open" },
      make("span", { class: "train-lora-project-name" }, make("small", {}, t("Project")), make("b", { "data-as-it-is": true }, told.name),
        make("small", { "data-as-it-is": true, title: told.folder }, told.folder),
        state.filled === "" ? make("small", {}, t("The folders that are ticked below are trained on, through a dataset file.")) : null),
      make("span", { class: "train-lora-buttons" }, button(t("Close"), close, { title: t("Its folder stays as it is") })));
  }

  function offer(found) {
    const known = found.project;
    const choices = found.choices.length > 1 ? found.choices : [];
    const words = known ? t(OFFERS.project, { name: known.name }) : t(OFFERS[found.kind] || OFFERS.empty);
    const act = () => (known ? open(known.folder) : build(found.folder));
    const explained = !known && ["concept", "kohya", "loose"].includes(found.kind)
      ? make("p", {}, t("The project gets image/, models/, log/ and reg/ in a folder beside them. The pictures stay where they are; nothing is copied.")) : null;
    return make("div", { class: "train-lora-offer" },
      ...found.said.map((line) => make("p", {}, message(line))), explained,
      make("span", { class: "train-lora-buttons" },
        ...choices.map((one) => button(raw(one.name), () => open(one.folder))),
        choices.length ? null : button(words, act, { class: "train-lora-button train-lora-primary" })));
  }

  function begin() {
    return make("div", { class: "train-lora-begin" },
      make("span", { class: "train-lora-buttons" },
        button(t("New project …"), () => lora.pictures.browse("new")), button(t("Choose a folder …"), () => lora.pictures.browse("choose"))),
      state.recent.length ? make("p", { class: "train-lora-recent" }, make("span", {}, t("Opened lately")),
        ...state.recent.slice(0, 6).map((one) => button(raw(one.name), () => open(one.folder), { title: one.folder }))) : null);
  }

  // The scan

  // automatic: nobody asked for it, so that it is no fault when something else is under way
  async function scan(automatic) {
    const former = state.wrong;
    const answer = await send(at("/scan"));
    if (answer) state.task = answer.task;
    else if (automatic === true) state.wrong = former;
    lora.look();
    draw();
  }

  async function report() {
    try {
      const found = await lora.get(at("/report"));
      state.report = found && found.counts ? found : null;
    } catch {
      state.report = null;
    }
  }

  // A task that has ended: what it changed is read again.
  async function ended(task) {
    if (task.kind === "scan") await report();
    else {
      state.outcome = task;
      state.selected.clear();
      draw();
      await refresh();
      await fields();
      if (task.result && task.result.made) scan(true);
    }
    reload();
  }

  const KINDS = ["scan", "cut", "masks"];
  const seen = new Map(); // what became of each task, by its id

  function drawTask(status, part) {
    const tasks = (status.tasks || []).filter((one) => KINDS.includes(one.kind));
    for (const one of [...tasks].reverse()) {
      const before = seen.get(one.id) || (one.id === state.task ? "running" : ""); // it may end before anyone looked
      seen.set(one.id, one.state);
      if (state.told && before === "running" && one.state !== "running") ended(one);
    }
    const task = tasks.find((one) => one.state === "running") || tasks[0];
    const running = Boolean(task && task.state === "running");
    state.busy = running;
    show(part.task, Boolean(task) && (running || (task.kind === "scan" && task.id === state.task)));
    if (!task) return;
    part.stop.dataset.task = task.id;
    show(part.stop, running);
    show(part.bar, running);
    mark(part.bar, "data-unsure", running && !task.total);
    part.bar.firstChild.style.width = task.total ? `${(100 * task.done) / task.total}%` : "0";
    const values = { done: count(task.done), total: count(task.total), seconds: task.seconds };
    const words = {
      scan: running ? t("Looking at the pictures: {done} of {total}", values) : task.total === 1 ? t("Looked at 1 picture in {seconds} s", values) : t("Looked at {total} pictures in {seconds} s", values),
      cut: t("Cutting the pictures"),
      masks: t("Masks: {done} of {total}", values),
    };
    say(part.stage, task.state === "failed" ? "" : words[task.kind]);
    const lines = [...(task.error ? [task.error] : []), ...(task.warnings || [])];
    show(part.notes, lines.length > 0);
    mark(part.notes, "data-kind", task.error ? "error" : "warning");
    fill(part.notes, JSON.stringify(lines), () => [make("ul", {}, ...lines.map((line) => make("li", {}, message(line))))]);
  }

  // What the last cut or masking made stays to be read while the pictures are looked at again; after a cut the originals
  // would be trained on as well, so there is the way to leave them out.
  function drawOutcome(part) {
    const task = state.outcome, made = task?.result?.made ?? 0;
    const from = task?.kind === "cut" && made ? task.result.from : [];
    const folders = (state.told.concepts || []).filter((one) => from.includes(one.id) && one.used);
    show(part.outcome, Boolean(task));
    if (!task) return;
    mark(part.outcome, "data-kind", task.error ? "error" : task.warnings.length ? "warning" : "ok");
    fill(part.outcome, JSON.stringify([task.id, task.warnings, folders, t("Undo")]), () => [
      make("header", {}, make("b", {}, task.error ? message(task.error) : outcome(task, made)), button("✕", () => { state.outcome = null; draw(); }, { title: t("Close"), "aria-label": t("Close") })),
      task.warnings.length ? make("ul", {}, ...task.warnings.map((line) => make("li", {}, message(line)))) : null,
      folders.length ? make("p", {}, t("What they were cut from is trained on as well.")) : null,
      folders.length ? make("span", { class: "train-lora-buttons" }, ...folders.map((one) => button([make("span", {}, t("Leave out")), " ", raw(one.name)], () => change("/use", { concept: one.id, used: false })))) : null]);
  }

  function outcome(task, made) {
    if (task.kind === "cut") return made === 1 ? t("1 picture made") : t("{made} pictures made", { made: count(made) });
    return made === 1 ? t("1 mask made") : t("{made} masks made", { made: count(made) });
  }

  // The whole view

  function construct(element) {
    const part = {};
    const put = (name, child) => (part[name] = child);
    const search = put("search", make("input", { type: "search", placeholder: t("Find by name"), "aria-label": t("Find by name"), oninput: searched }));
    search.value = state.filter.search;
    const size = put("size", make("input", { type: "range", min: 84, max: 300, step: 4, "aria-label": t("Size of the thumbnails"), oninput: resized }));
    size.value = state.size;
    element.replaceChildren(make("section", { class: "train-lora-studio" },
      put("said", make("div", { class: "train-lora-box", "data-kind": "note", role: "status", hidden: true })),
      put("wrong", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true })),
      put("outcome", make("div", { class: "train-lora-box train-lora-outcome", role: "status", hidden: true })),
      put("folders", make("div", { class: "train-lora-folders" })),
      put("task", make("div", { class: "train-lora-pictures-task", hidden: true },
        make("header", {}, put("stage", make("span", { class: "train-lora-stage" })), put("stop", button(t("Stop"), (event) => send(`tasks/${event.currentTarget.dataset.task}/stop`)))),
        put("bar", make("div", { class: "train-lora-bar", role: "progressbar" }, make("i"))),
        put("notes", make("div", { class: "train-lora-box", hidden: true })))),
      put("report", make("div", { class: "train-lora-scan" })),
      make("div", { class: "train-lora-pictures-tools" },
        put("chosen", make("span", { class: "train-lora-buttons" })),
        make("span", { class: "train-lora-pictures-sizes" }, search, make("label", {}, make("span", {}, t("Size")), size))),
      put("scroll", make("div", { class: "train-lora-pictures-scroll", tabindex: 0, role: "group", "aria-label": t("Pictures"), onscroll: () => requestAnimationFrame(paint) },
        put("space", make("div", { class: "train-lora-pictures-space" })))),
      put("nothing", make("p", { class: "train-lora-empty", hidden: true })),
      put("changes", make("details", { class: "train-lora-changes" }, make("summary", {}, t("Changes")), make("ul")))));
    part.cells = [];
    new ResizeObserver(() => requestAnimationFrame(paint)).observe(part.scroll);
    return part;
  }

  function draw(status = lora.status() || {}) {
    const place = find("train_lora_project_view");
    if (place) drawProject(place);
    const element = find("train_lora_pictures_view");
    if (!element) return;
    if (!state.told) {
      if (element.firstChild) element.replaceChildren();
      delete element.trainLoraParts;
      if (state.wrong.length && place) problemsBelow(place);
      return;
    }
    if (place) problemsBelow(place, []);
    const part = lora.once(element, construct);
    state.part = part;
    lines(part.said, state.said);
    lines(part.wrong, state.wrong);
    drawFolders(part);
    drawTask(status, part);
    drawOutcome(part);
    drawReport(part);
    drawChosen(part);
    drawChanges(part);
    paint();
  }

  function lines(box, texts) {
    show(box, texts.length > 0);
    fill(box, JSON.stringify(texts), () => [make("ul", {}, ...texts.map((text) => make("li", {}, message(text))))]);
  }

  function problemsBelow(place, texts = state.wrong) {
    let box = place.querySelector(":scope > .train-lora-box");
    if (!box && texts.length) place.append(box = make("div", { class: "train-lora-box", "data-kind": "error", role: "alert" }));
    if (box) lines(box, texts);
  }

  // Folders of the project: what is trained on, and a filter of the table

  function drawFolders(part) {
    const { concepts = [] } = state.told;
    const key = JSON.stringify([concepts, state.filter.folder, state.masks, state.busy, t("Regularisation")]);
    fill(part.folders, key, () => [
      make("div", { class: "train-lora-folder-list" }, ...concepts.map(folder)),
      make("div", { class: "train-lora-buttons" },
        button(t("Add pictures from elsewhere …"), () => lora.pictures.browse("add")),
        concepts.some((one) => one.masks) ? make("label", { class: "train-lora-check", title: t("White is learnt, black isn't. Pictures without a mask get a white one.") },
          checkbox(state.masks, (on) => fields(on)), make("span", {}, t("Train with the masks"))) : null),
    ]);
  }

  function checkbox(checked, act, more = {}) {
    const box = make("input", { type: "checkbox", ...more, onchange: (event) => act(event.target.checked) });
    box.checked = checked;
    return box;
  }

  function folder(one) {
    const chosen = state.filter.folder === one.id;
    const repeats = one.repeats === null ? "" : `${count(one.repeats)} × `;
    return make("div", { class: "train-lora-folder", "data-used": String(one.used), "data-chosen": String(chosen) },
      checkbox(one.used, (used) => change("/use", { concept: one.id, used }), { title: t("Train on it"), "aria-label": t("Train on it") }),
      make("button", { type: "button", "aria-pressed": String(chosen), title: t("Show only this folder's pictures"), onclick: () => filter({ folder: chosen ? "" : one.id }) },
        make("b", { "data-as-it-is": true }, one.name), " ",
        make("small", {}, repeats, one.pictures === 1 ? t("1 picture") : t("{count} pictures", { count: count(one.pictures) })),
        one.masks ? make("small", {}, one.masks === 1 ? t("1 mask") : t("{count} masks", { count: count(one.masks) })) : null,
        one.is_reg ? make("small", {}, t("regularisation")) : null,
        one.elsewhere ? make("small", { title: t("Used where it is") }, t("elsewhere")) : null),
      one.elsewhere ? make("button", { type: "button", class: "train-lora-folder-drop", title: t("Use it no longer; the folder stays"), "aria-label": t("Use it no longer; the folder stays"),
        onclick: () => change("/drop", { concept: one.id }) }, "✕") : null);
  }

  async function change(path, body) {
    const answer = await send(at(path), body);
    if (!answer) return;
    state.told = answer;
    state.said = answer.said || [];
    if (path !== "/use") state.filter.folder = "";
    await fields();
    reload();
  }

  // What the scan found

  function drawReport(part) {
    const { report, filter, told } = state;
    const key = JSON.stringify([report, filter.finding, told.pictures, told.concepts?.map((one) => one.masks), state.busy, t("Look at all pictures")]);
    fill(part.report, key, () => {
      if (!told.pictures) return [make("p", { class: "train-lora-empty" }, make("b", {}, t("There are no pictures in this project yet.")),
        make("span", {}, t("Put folders called 10_name into its folder image, or add pictures from elsewhere: they stay where they are.")))];
      const again = button(report ? t("Look again") : t("Look at all pictures"), scan, { disabled: state.busy, title: t("Sizes, shapes, broken, blurred and black-and-white pictures, and which are alike") });
      if (!report) return [make("div", { class: "train-lora-buttons" }, again)];
      const masks = (told.concepts || []).reduce((sum, one) => sum + one.masks, 0);
      const tally = { ...report.findings, masked: masks, uncaptioned: report.counts.pictures - report.counts.captions > 0 ? null : 0 };
      const chips = Object.entries(FINDINGS).filter(([name]) => tally[name] !== 0 && name in tally).map(([name, text]) => chip(name, t(text), tally[name]));
      return [
        make("div", { class: "train-lora-chips" }, chip("", t("All"), told.pictures), ...chips, again),
        facts(report), warnings(report),
      ];
    });
  }

  function chip(name, text, number) {
    const chosen = state.filter.finding === name;
    return make("button", { type: "button", class: "train-lora-chip", "aria-pressed": String(chosen), "data-bad": String(BAD.includes(name)), onclick: () => filter({ finding: chosen ? "" : name }) },
      make("span", {}, text), number === null ? null : make("b", {}, count(number)));
  }

  function facts({ counts, aspect, format, mode }) {
    const told = (title, tally) => {
      const most = Object.entries(tally).sort((a, b) => b[1] - a[1]).slice(0, 5);
      return most.length ? make("span", {}, make("small", {}, t(title)), most.map(([name, number]) => make("span", { "data-as-it-is": true }, `${name} ${count(number)}`))) : null;
    };
    const colours = make("span", {}, make("small", {}, t("Colour")), make("span", {}, t("{colour} in colour, {grey} black and white", { colour: count(counts.colour), grey: count(counts.grey) })));
    return make("div", { class: "train-lora-scan-facts" }, told(/* t */ "Shapes", aspect), told(/* t */ "Formats", format), told(/* t */ "Kinds of pixels", mode), colours);
  }

  function warnings(report) {
    const others = ["junk", "unread", "irregular", "unreadable"].flatMap((name) => report[name] || []);
    if (!report.warnings.length) return make("p", { class: "train-lora-good" }, t("Nothing is wrong with these pictures."));
    return make("details", { class: "train-lora-scan-warnings", open: report.warnings.length < 4 }, make("summary", {}, t("What to look at")),
      make("ul", {}, ...report.warnings.map((text) => make("li", {}, message(text)))),
      others.length ? make("p", { "data-as-it-is": true }, others.slice(0, 12).join(", ")) : null);
  }

  // The filter

  let searching = 0;

  function searched(event) {
    clearTimeout(searching);
    const text = event.target.value;
    searching = setTimeout(() => filter({ search: text }), 250);
  }

  function filter(changes) {
    Object.assign(state.filter, changes);
    state.selected.clear();
    state.last = -1;
    reload();
  }

  function query(more = {}) {
    const given = Object.entries({ ...state.filter, ...more }).filter(([, value]) => value !== "");
    return new URLSearchParams(given).toString();
  }

  function reload() {
    if (!state.told) {
      draw();
      return;
    }
    state.turn += 1;
    state.rows.clear();
    state.loading.clear();
    state.part?.scroll && (state.part.scroll.scrollTop = 0);
    load(0);
    draw();
  }

  async function load(block) {
    const turn = state.turn;
    if (state.loading.has(block) || state.rows.has(block) || state.loading.size > 2) return;
    state.loading.add(block);
    try {
      const page = await lora.get(at(`/page?${query({ offset: block * BLOCK, limit: BLOCK })}`));
      if (turn !== state.turn) return;
      state.total = page.total;
      state.rows.set(block, page.pictures);
      if (state.rows.size > KEPT) state.rows.delete(state.rows.keys().next().value);
    } catch (error) {
      if (turn === state.turn) state.wrong = lora.problems(error);
    } finally {
      if (turn === state.turn) state.loading.delete(block);
    }
    if (turn === state.turn) draw();
  }

  const row = (index) => state.rows.get(Math.floor(index / BLOCK))?.[index % BLOCK];

  // Until a picture's row is there; the table may be read anew meanwhile.
  async function ready(index) {
    for (let tries = 0; !row(index) && tries < 30; tries += 1) {
      await load(Math.floor(index / BLOCK));
      if (!row(index)) await new Promise((go) => setTimeout(go, 100));
    }
  }

  // The table: cells are made once and moved, since every node that comes or goes costs a WebUI's other extensions time

  function resized(event) {
    state.size = Number(event.target.value);
    paint();
  }

  function paint() {
    const part = state.part;
    if (!part || !part.scroll.isConnected) return;
    const { total, size } = state;
    show(part.scroll, total > 0);
    const none = !total && !state.loading.size && Boolean(state.told?.pictures);
    show(part.nothing, none);
    if (none) say(part.nothing, t("No picture is like this."));
    const width = part.scroll.clientWidth;
    if (!width || !total) {
      part.cells.forEach((cell) => show(cell.element, false));
      return;
    }
    const columns = Math.max(1, Math.floor((width + GAP) / (size + GAP)));
    const [wide, high] = [(width - GAP * (columns - 1)) / columns, 0];
    const step = Math.round(wide + CAPTION + GAP) + high;
    const rows = Math.ceil(total / columns);
    part.space.style.height = `${rows * step}px`;
    part.scroll.style.height = `${Math.min(rows * step, Math.max(320, Math.round(window.innerHeight * 0.62)))}px`;
    const first = Math.max(0, Math.floor(part.scroll.scrollTop / step) - 1);
    const last = Math.min(rows, first + Math.ceil(part.scroll.clientHeight / step) + 3);
    const wanted = (last - first) * columns;
    while (part.cells.length < wanted) part.cells.push(cell(part));
    const missing = new Set();
    part.cells.forEach((one, place) => {
      const base = first * columns;
      const length = part.cells.length;
      const index = base + ((((place - base) % length) + length) % length); // the same cell shows the same picture while one scrolls
      if (index >= total || index >= last * columns) {
        show(one.element, false);
        return;
      }
      const left = (index % columns) * (wide + GAP), top = Math.floor(index / columns) * step;
      one.element.style.cssText = `transform:translate(${left}px,${top}px);width:${wide}px;height:${wide + CAPTION}px`;
      show(one.element, true);
      const data = row(index);
      if (!data) missing.add(Math.floor(index / BLOCK));
      put(one, index, data, wide);
    });
    missing.forEach(load);
  }

  function cell(part) {
    const one = { index: -1 };
    one.image = make("img", { alt: "", draggable: "false", decoding: "async", onerror: () => mark(one.element, "data-broken", true) });
    one.tick = make("input", { type: "checkbox", "aria-label": t("Choose"), onclick: (event) => choose(one, event) });
    one.name = make("span", { class: "train-lora-picture-name", "data-as-it-is": true });
    one.marks = make("span", { class: "train-lora-picture-marks" });
    one.element = make("div", { class: "train-lora-picture", hidden: true },
      make("button", { type: "button", class: "train-lora-picture-open", onclick: () => lora.pictures.edit(one.index) }, one.image), one.tick, one.marks, one.name);
    part.space.append(one.element);
    return one;
  }

  function put(one, index, data, wide) {
    one.index = index;
    mark(one.element, "data-loading", !data);
    if (!data) {
      one.id = "";
      one.image.removeAttribute("src");
      say(one.name, "…");
      one.tick.checked = false;
      return;
    }
    const side = wide * (window.devicePixelRatio || 1) > 140 ? 256 : 128;
    const source = thumbnail(data, wide * (window.devicePixelRatio || 1) > 280 ? 512 : side);
    if (one.image.getAttribute("src") !== source) {
      mark(one.element, "data-broken", Boolean(data.problem));
      if (data.problem) one.image.removeAttribute("src");
      else one.image.src = source;
    }
    one.id = data.id;
    const chosen = state.selected.has(data.id);
    if (one.tick.checked !== chosen) one.tick.checked = chosen;
    mark(one.element, "data-chosen", chosen);
    say(one.name, data.name);
    const words = (data.findings || []).map((name) => t(FINDINGS[name] || name));
    mark(one.element, "title", [data.name, data.width ? `${data.width} × ${data.height}` : "", ...words, data.problem ? message(data.problem) : ""].filter(Boolean).join("\n"));
    const found = (data.findings || []).filter((name) => BAD.includes(name));
    fill(one.marks, JSON.stringify([found, data.masked, data.is_reg, data.captioned, state.filter.finding === "alike" && data.group]), () => [
      ...found.slice(0, 3).map((name) => make("i", { "data-finding": name }, LETTERS[name])),
      data.masked ? make("i", { "data-finding": "mask" }, "◐") : null,
    ]);
  }

  const LETTERS = { broken: "!", twice: "=", alike: "≈", tiny: "▫", huge: "▣", blurred: "~" };

  const thumbnail = (data, side) => `${lora.API}${at(`/thumbnails/${data.id}/${side}.jpg?v=${data.version}&blank=1`)}`;

  // Choosing

  async function choose(one, event) {
    const data = row(one.index);
    if (!data) return;
    const on = event.target.checked;
    const between = event.shiftKey && state.last >= 0 ? await all() : null;
    const range = between ? between.slice(Math.min(state.last, one.index), Math.max(state.last, one.index) + 1) : [data.id];
    for (const id of range) state.selected[on ? "add" : "delete"](id);
    state.last = one.index;
    draw();
  }

  async function all() {
    try {
      return (await lora.get(at(`/ids?${query()}`))).ids;
    } catch (error) {
      state.wrong = lora.problems(error);
      return [];
    }
  }

  async function chooseAll() {
    for (const id of await all()) state.selected.add(id);
    draw();
  }

  function drawChosen(part) {
    const number = state.selected.size;
    const key = JSON.stringify([number, state.total, state.busy, state.told.no_remover, t("Choose all")]);
    fill(part.chosen, key, () => [
      make("span", { class: "train-lora-chosen" }, number ? t("{number} of {total} chosen", { number: count(number), total: count(state.total) }) : state.total === 1 ? t("1 picture") : t("{total} pictures", { total: count(state.total) })),
      number < state.total ? button(t("Choose all"), chooseAll) : null,
      number ? button(t("Choose none"), () => { state.selected.clear(); draw(); }) : null,
      number ? button(t("Cut …"), () => lora.pictures.cutMany([...state.selected]), { class: "train-lora-button train-lora-primary", disabled: state.busy }) : null,
      number ? button(t("Mask from transparency"), () => masks("alpha"), { disabled: state.busy }) : null,
      number ? button(t("Mask of what is in front"), () => masks("background"), { disabled: state.busy || Boolean(state.told.no_remover), title: state.told.no_remover || t("By rembg, which this program has") }) : null,
      number ? button(t("Take masks away"), unmask, { disabled: state.busy }) : null,
      number ? null : make("small", { class: "train-lora-hint" }, t("Click a picture to cut it or draw its mask; tick pictures to do the same to many.")),
    ]);
  }

  const masks = (way) => begun("/masks", { pictures: [...state.selected], way });

  async function begun(path, body) {
    const answer = await send(at(path), body);
    if (answer) [state.task, state.outcome] = [answer.task, null];
    state.said = [];
    lora.look();
    draw();
    return Boolean(answer);
  }

  async function unmask() {
    const answer = await send(at("/unmask"), { pictures: [...state.selected] });
    if (answer) changed(answer);
  }

  async function changed(answer) {
    state.told = { ...answer, said: [] };
    await fields();
    reload();
  }

  // What was changed, and the way back

  function drawChanges(part) {
    const changes = state.told.changes || [];
    show(part.changes, changes.length > 0);
    fill(part.changes.lastChild, JSON.stringify([changes, t("Undo")]), () => changes.map((one) => make("li", { "data-undone": String(one.undone) },
      make("span", { class: "train-lora-words" }, message(one.title), " ", make("small", {}, one.files === 1 ? t("1 file, {when}", { when: when(one) }) : t("{files} files, {when}", { files: count(one.files), when: when(one) }), one.whole || one.undone ? null : [" · ", t("it did not come to its end")])),
      one.undone ? make("small", {}, t("undone")) : button(t("Undo"), () => undo(one.id)))));
  }

  const when = (change) => new Date(change.time * 1000).toLocaleString();

  async function undo(id) {
    const answer = await send(at("/undo"), { change: id });
    if (!answer) return;
    await changed(answer.project);
    const edited = answer.changed.length;
    const stays = !edited ? [] : [edited === 1 ? t("1 file was edited meanwhile and stays as it is.") : t("{count} files were edited meanwhile and stay as they are.", { count: count(edited) })];
    const masks = answer.unmasked ? [t("Some pictures have no mask any more, so the training goes without masks.")] : [];
    const restored = answer.restored === 1 ? t("1 file is as it was.") : t("{count} files are as they were.", { count: count(answer.restored) });
    told([restored, ...stays, ...masks]);
    scan(true);
  }

  // When to look

  document.addEventListener("input", (event) => {
    if (event.target.closest?.("#train_lora_train_data_dir")) typed();
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#train_lora_demo, #train_lora_read_pictures")) {
      setTimeout(look, 1200);
      if (state.told) setTimeout(() => { refresh(); reload(); }, 800);
    }
  }, true);
  window.addEventListener("resize", () => requestAnimationFrame(paint));

  lora.project = null;
  lora.onProject = (listener) => {
    listeners.push(listener);
    if (lora.project) listener(lora.project);
  };
  lora.pictures = { state, send, at, row, button, raw, open, build, add: (folder) => change("/add", { folder }), begun, changed, thumbnail, draw, checkbox, fields, total: () => state.total, ready };
  lora.register("project", { id: "train_lora_project_view", draw: (status) => draw(status) });
  lora.register("pictures", { id: "train_lora_pictures_view", draw: () => {} });
  let asked = false;
  lora.onStatus(() => {
    if (!asked && input("train_data_dir")) {
      asked = true;
      recent();
    }
    look();
  });
})();
