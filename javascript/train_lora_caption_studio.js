// The caption studio: the table of pictures with captions, filters, edits of many with a preview, history and audit.
// What is typed is completed by train_lora_caption_studio_words.js.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.captionStudio) return;
  const { t, message, find, make, say, show, mark, list, count } = lora;
  const studio = lora.captionStudio = { tags: [], trigger: () => valueOf("train_lora_caption_trigger") };
  const [PAGE, CHIPS, SHOWN] = [30, 36, 60]; // rows of a page; tags and changes that are shown unasked

  const EMPTY = { tags: [], without: [], folder: "", missing: null, text: "", foreign: false, names: null };
  let filter = { ...EMPTY }, why = ""; // why: what the named pictures are, where a finding chose them
  let page = null, tags = null, findings = null, history = null, preview = null; // what the server said last
  let failed = [], tool = "", offset = 0, asked = 0, loaded = "", told = null, allTags = false, busy = false;
  const selected = new Set(), drafts = new Map(); // by a picture's name
  const waiting = new Map(); // drafts of other sets
  let part = null, filled = null;

  // The form's fields

  const input = (id) => find(id)?.querySelector("input, textarea");
  const valueOf = (id) => (input(id)?.value || "").trim();

  function setField(id, value) {
    const field = input(id);
    if (!field) return;
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, value);
    for (const name of ["input", "change", "blur"]) field.dispatchEvent(new Event(name, { bubbles: true }));
  }

  const set = () => ({ folder: valueOf("train_lora_train_data_dir") || lora.project?.folder || "", extension: valueOf("train_lora_caption_extension") || ".txt" });

  function chosen() {
    const named = selected.size ? [...selected] : filter.names;
    return { ...filter, names: named || undefined };
  }

  // Small pieces

  const button = (text, act, more = {}) => make("button", { type: "button", class: "train-lora-button", onclick: act, ...more }, text);
  const quiet = (text, act, more = {}) => make("button", { type: "button", class: "train-lora-link", onclick: act, ...more }, text);
  const own = (tag, name, more, ...children) => make(tag, { class: `train-lora-cs-${name}`, ...more }, ...children);
  const asItIs = (text, more = {}) => make("span", { "data-as-it-is": true, ...more }, text);
  const pictures = (number) => (number === 1 ? t("1 picture") : t("{count} pictures", { count: count(number) }));
  const captions = (number) => (number === 1 ? t("1 caption") : t("{count} captions", { count: count(number) }));
  const thumbnail = (id, side) => `${lora.API}caption-studio/pictures/${id}.jpg?${new URLSearchParams({ ...set(), side, blank: 1 })}`;

  function choice(options, first, label, changed) {
    return make("select", { "aria-label": label, onchange: (event) => changed && changed(event.target.value) },
      ...options.map(([value, text]) => make("option", { value, selected: value === first }, text)));
  }

  const field = (text, child) => make("label", { class: "train-lora-cs-field" }, make("span", {}, text), child);
  const tick = (text, more = {}) => {
    const box = make("input", { type: "checkbox", ...more });
    return { box, label: make("label", { class: "train-lora-cs-tick" }, box, make("span", {}, text)) };
  };

  function words(placeholder, more = {}) {
    const made = make("input", { type: "text", placeholder, autocomplete: "off", spellcheck: "false", ...more });
    studio.complete?.(made);
    return made;
  }

  // Lines, tags, and what became of them

  const split = (text) => text.split("\n").map((line) => line.split(",").map((tag) => tag.trim()).filter(Boolean));
  const key = (tag) => tag.replace(/\\([()])/g, "$1").toLowerCase().replaceAll("_", " ").replace(/\s+/g, " ").trim();

  // Tags that stay, go and come, in order: [["same" | "gone" | "new", tag]].
  function difference(before, after) {
    const [a, b] = [before, after].map((text) => split(text).flatMap((line, at) => (at ? ["⏎", ...line] : line)));
    const rows = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) rows[i][j] = a[i] === b[j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
    }
    const found = [];
    for (let i = 0, j = 0; i < a.length || j < b.length;) {
      if (i < a.length && j < b.length && a[i] === b[j]) found.push(["same", a[(i += 1, j += 1, i - 1)]]);
      else if (i < a.length && (j >= b.length || rows[i + 1][j] >= rows[i][j + 1])) found.push(["gone", a[i++]]);
      else found.push(["new", b[j++]]);
    }
    return found;
  }

  function compared(before, after) {
    const names = { gone: "del", new: "ins", same: "span" };
    const shown = difference(before || "", after).map(([kind, tag]) => make(names[kind], {}, tag));
    return own("p", "diff", { "data-as-it-is": true }, ...shown.flatMap((one, at) => (at ? [" ", one] : [one])));
  }

  // Requests

  async function ask(name, body = {}) {
    try {
      return await lora.post(`caption-studio/${name}`, { ...set(), ...body });
    } catch (error) {
      tell("error", lora.problems(error));
      return null;
    }
  }

  // What takes longer is a task: its result, or null.
  async function finished(answer) {
    if (!answer || !answer.task) return answer;
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, 400));
      let task = null;
      try {
        task = ((await lora.get("status")).tasks || []).find((one) => one.id === answer.task);
      } catch {
        continue;
      }
      if (!task) return null;
      if (task.state === "running") {
        tell("ok", [t("{done} of {total}", { done: count(task.done), total: count(task.total) })]);
        continue;
      }
      if (task.error) tell("error", [message(task.error)]);
      return task.error ? null : { ...task.result, warnings: task.warnings || [] };
    }
  }

  // One thing at a time: what is asked for twice would be done twice.
  async function alone(act) {
    if (busy) return;
    busy = true;
    part.root.setAttribute("aria-busy", "true");
    try {
      await act();
    } finally {
      busy = false;
      part.root.removeAttribute("aria-busy");
    }
  }

  let gone = 0;
  function tell(kind, lines, undo = null) {
    told = lines && lines.length ? { kind, lines, undo } : null;
    clearTimeout(gone);
    if (told && kind === "ok") gone = setTimeout(() => tell("", []), 20000);
    drawTold();
  }

  // Reading

  async function load(fresh = false) {
    const mine = (asked += 1);
    const now = set();
    loaded = JSON.stringify(now);
    failed = [];
    if (!now.folder) {
      page = tags = null;
      drawAll();
      return;
    }
    try {
      const rows = await lora.post("caption-studio/table", { ...now, filter: withoutSelection(), offset, limit: PAGE, fresh });
      const found = fresh || !tags ? await lora.post("caption-studio/tags", { ...now, filter: {} }) : tags;
      if (mine !== asked) return;
      page = rows;
      tags = found;
      studio.tags = tags.tags;
      if (offset && offset >= page.matching) {
        offset = Math.max(0, Math.floor((page.matching - 1) / PAGE) * PAGE);
        await load();
        return;
      }
    } catch (error) {
      if (mine !== asked) return;
      page = tags = null;
      studio.tags = [];
      failed = lora.problems(error);
    }
    drawAll();
  }

  function withoutSelection() {
    const kept = { ...filter };
    if (!kept.names) delete kept.names;
    return kept;
  }

  // What changed on disk: everything that tells of it is read again.
  async function again() {
    preview = null;
    for (const [name, draft] of drafts) if (draft.text === draft.before) drafts.delete(name);
    await load(true);
    if (history) await readHistory();
    if (findings) await check();
  }

  function narrow(change) {
    filter = { ...filter, ...change };
    offset = 0;
    selected.clear();
    preview = null;
    load();
  }

  // Editing one

  async function save(name) {
    const draft = drafts.get(name);
    if (!draft) return true;
    if (draft.text === draft.before) {
      drafts.delete(name);
      drawRows();
      return true;
    }
    const row = await ask("edit", { name, caption: draft.text, digest: draft.digest });
    if (!row) return false;
    drafts.delete(name);
    const at = page ? page.rows.findIndex((one) => one.name === name) : -1;
    if (at >= 0) page.rows[at] = row;
    drawRows();
    tell("", []);
    later();
    return true;
  }

  // After typing, the counts may wait a moment.
  let clock = 0;
  function later() {
    clearTimeout(clock);
    clock = setTimeout(() => load(true).then(() => history && readHistory()), 700);
  }

  async function saveAll() {
    for (const name of [...drafts.keys()]) if (!(await save(name))) return;
  }

  const areaOf = (name) => [...part.rows.querySelectorAll("textarea")].find((one) => one.dataset.name === name);

  function open(row) {
    if (row.problem) return;
    if (!drafts.has(row.name)) drafts.set(row.name, { text: row.caption, before: row.caption, digest: row.digest });
    drawRows();
    const area = areaOf(row.name);
    if (area) {
      area.focus();
      area.setSelectionRange(area.value.length, area.value.length);
    }
  }

  // The field that is typed in; gradio may draw the step anew meanwhile, then its successor goes on where it was.
  let typing = null;

  function goOnTyping() {
    if (!typing || typing.isConnected) return;
    const [before, after] = [typing, areaOf(typing.dataset.name)];
    if (!after || !after.isConnected) return;
    after.focus({ preventScroll: true });
    after.setSelectionRange(before.selectionStart, before.selectionEnd);
  }

  function editor(row) {
    const draft = drafts.get(row.name);
    const diff = own("div", "live");
    const area = make("textarea", { rows: 2, spellcheck: "false", "aria-label": t("Caption of {name}", { name: row.name }), "data-name": row.name });
    area.value = draft.text;
    area.addEventListener("focus", () => { typing = area; });
    area.addEventListener("blur", () => setTimeout(() => { if (typing === area && area.isConnected) typing = null; }));
    const grow = () => {
      area.style.height = "auto";
      area.style.height = `${area.scrollHeight + 2}px`;
      diff.replaceChildren(...(draft.text === draft.before ? [] : [compared(draft.before, draft.text)]));
      drawUnsaved();
    };
    const next = () => page.rows[page.rows.findIndex((one) => one.name === row.name) + 1];
    const back = () => {
      drafts.delete(row.name);
      drawRows();
      focusCaption(row.name);
    };
    area.addEventListener("input", () => {
      draft.text = area.value;
      grow();
    });
    studio.complete?.(area);
    area.addEventListener("keydown", async (event) => {
      event.stopPropagation(); // a WebUI has keys of its own
      if (event.defaultPrevented || event.isComposing) return;
      if (event.key === "Escape") {
        event.preventDefault();
        back();
      }
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      const after = event.ctrlKey || event.metaKey ? next() : null;
      if (!(await save(row.name))) return;
      if (after) open(page.rows.find((one) => one.name === after.name) || after);
      else focusCaption(row.name);
    });
    requestAnimationFrame(grow);
    return own("div", "editor", {}, area, diff,
      own("div", "ends", {}, button(t("Save"), () => save(row.name), { "data-kind": "first" }), button(t("Cancel"), back),
        make("small", {}, t("Enter saves, Ctrl+Enter goes on to the next, Shift+Enter begins a line, Tab completes a tag, Esc goes back"))));
  }

  function focusCaption(name) {
    const cell = [...part.rows.querySelectorAll("button.train-lora-cs-caption")].find((one) => one.dataset.name === name);
    if (cell) cell.focus();
  }

  // Edits of many

  async function look(edits, more = {}) {
    await alone(async () => {
      const wanted = more.filter || chosen();
      const answer = await ask("preview", { filter: wanted, edits });
      if (!answer) return;
      preview = { ...answer, edits, filter: wanted, then: more.then || null };
      if (!answer.total && more.then) more.then();
      tell("", []);
      drawPreview();
      part.preview.scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
  }

  async function lookAtFlips() {
    await alone(async () => {
      const body = { filter: chosen(), protect: studio.trigger(), writing: Boolean(part.form.querySelector("[data-writing]")?.checked) };
      const answer = await ask("flips", body);
      if (!answer) return;
      preview = { ...answer, title: t("mirrored copies"), flips: body, filter: body.filter };
      tell("", []);
      drawPreview();
    });
  }

  async function write() {
    const { edits, filter: wanted, token, flips, then } = preview;
    await alone(async () => {
      const done = await finished(flips ? await ask("flip", flips) : await ask("apply", { filter: wanted, edits, token }));
      if (!done) return;
      if (then) then();
      preview = null;
      const lines = [flips ? t("{count} mirrored copies are made.", { count: count(done.written) }) : t("{count} are written.", { count: captions(done.written) })];
      if ((done.changed || []).length) lines.push(t("{count} were edited meanwhile and stay as they are.", { count: captions(done.changed.length) }));
      lines.push(...(done.warnings || []).map(message));
      if (Array.isArray(done.problems)) lines.push(...done.problems.map(message));
      await again();
      tell("ok", lines, done.entry);
    });
  }

  async function takeBack(change) {
    await alone(async () => {
      const done = await finished(await ask("undo", change ? { change } : {}));
      if (!done) return;
      const lines = [t("Taken back: {title}", { title: message(done.title) })];
      if (done.changed.length) lines.push(t("{count} were edited meanwhile and stay as they are.", { count: captions(done.changed.length) }));
      await again();
      tell("ok", lines);
    });
  }

  async function readHistory() {
    const answer = await ask("history");
    history = answer ? answer.changes : history;
    drawHistory();
  }

  async function check() {
    const longest = Number(valueOf("train_lora_max_token_length")) || 75;
    const answer = await ask("audit", { trigger: studio.trigger(), max_token_length: [75, 150, 225].includes(longest) ? longest : 75 });
    findings = answer ? answer.findings : findings;
    drawFindings();
  }

  // As many tags as the trigger has stay in front when tags are shuffled; how many that are.
  function keepFirst(trigger) {
    const number = trigger.split(",").filter((one) => one.trim()).length;
    setField("train_lora_keep_tokens", String(number));
    if (lora.fields) lora.fields.sync();
    return number;
  }

  // The trigger word first everywhere, and kept there when tags are shuffled.
  function putTrigger() {
    const trigger = studio.trigger();
    if (!trigger) {
      tell("warning", [t("Write the trigger word first.")]);
      input("train_lora_caption_trigger")?.focus();
      return;
    }
    look([{ edit: "add", tags: trigger, place: "first" }, { edit: "reorder", first: trigger }], { filter: { ...EMPTY, names: undefined, folder: filter.folder }, then: () => keepFirst(trigger) });
  }

  // Forms of the tools: each gives its edits

  const TOOLS = {
    add: [/* t */ "Add", () => {
      const what = words(t("tags, with commas between"), { "aria-label": t("Tags") });
      const after = words(t("this tag"), { hidden: true, "aria-label": t("Behind which tag") });
      const place = choice([["first", t("at the front")], ["last", t("at the end")], ["after", t("behind a tag")]], "first", t("Where"), (value) => show(after, value === "after"));
      return [[what, place, after], () => [{ edit: "add", tags: what.value, place: place.value, after: place.value === "after" ? after.value : "" }]];
    }],
    remove: [/* t */ "Remove", () => {
      const what = words(t("tags, with commas between"), { "aria-label": t("Tags") });
      what.value = filter.tags.join(", ");
      return [[what], () => [{ edit: "remove", tags: what.value }]];
    }],
    replace: [/* t */ "Replace", () => {
      const what = words(t("this tag"), { "aria-label": t("What is replaced") }), by = words(t("by this; empty removes it"), { "aria-label": t("By what") });
      [what.value] = filter.tags.length ? filter.tags : [""];
      const text = tick(t("anywhere in the text")), regex = tick(t("regular expression"), { disabled: page && !page.regex, title: page && !page.regex && t("Not where strangers may reach this page") });
      const given = () => [{ edit: "replace", find: what.value, by: by.value, regex: regex.box.checked, scope: text.box.checked ? "text" : "tag" }];
      return [[what, make("span", {}, "→"), by, text.label, regex.label], given];
    }],
    order: [/* t */ "Order", () => {
      const first = words(t("tags to the front"), { "aria-label": t("Tags to the front") }), last = words(t("tags to the end"), { "aria-label": t("Tags to the end") });
      const sort = choice([["", t("leave the others in order")], ["alphabet", t("sort by the alphabet")], ["frequency", t("sort, most frequent first")]], "", t("The others"));
      const keep = make("input", { type: "number", min: 0, max: 50, value: Number(valueOf("train_lora_keep_tokens")) || 0, "aria-label": t("Tags at the front that stay") });
      const given = () => [{ edit: "reorder", first: first.value, last: last.value, sort: sort.value, keep: Number(keep.value) || 0 }];
      return [[first, last, sort, field(t("but the first"), keep)], given];
    }],
    tidy: [/* t */ "Tidy up", () => {
      const twice = tick(t("each tag once"), { checked: true }), utf8 = tick(t("save as UTF-8"), { checked: page && Object.keys(page.encodings).length > 0 });
      const lines = choice([["", t("underscores as they are")], ["spaces", t("underscores to spaces")], ["underscores", t("spaces to underscores")]], "", t("Underscores"));
      const brackets = choice([["", t("brackets as they are")], ["escaped", t("escape brackets: \\( \\)")], ["plain", t("plain brackets: ( )")]], "", t("Brackets"));
      const given = () => [
        ...(utf8.box.checked ? [{ edit: "save" }] : []),
        ...(lines.value ? [{ edit: "underscores", to: lines.value, protect: studio.trigger() }] : []),
        ...(brackets.value ? [{ edit: "brackets", to: brackets.value }] : []),
        ...(twice.box.checked ? [{ edit: "deduplicate" }] : []),
      ];
      return [[twice.label, lines, brackets, utf8.label], given];
    }],
    mirror: [/* t */ "Mirrored copies", () => {
      const writing = tick(t("also where captions speak of text or a signature"), { "data-writing": true });
      const about = make("small", {}, t("A copy beside each picture, left and right swapped in its caption too. “Mirror at random” in the step Training does it without files."));
      return [[writing.label, about], null];
    }],
  };

  function drawForm() {
    for (const one of part.tools.querySelectorAll("button")) mark(one, "aria-pressed", one.dataset.tool === tool);
    show(part.form, Boolean(tool));
    if (!tool) {
      part.form.replaceChildren();
      return;
    }
    const [fields, given] = TOOLS[tool][1]();
    const go = () => (given ? given().length && look(given()) : lookAtFlips());
    part.form.replaceChildren(...fields, button(t("Preview"), go, { "data-kind": "first" }));
    part.form.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Enter" && !event.defaultPrevented && event.target.matches("input")) go();
    };
    part.form.querySelector("input[type=text]")?.focus();
  }

  // Drawing

  function build(element) {
    const found = {};
    const put = (name, child) => (found[name] = child);
    const search = make("input", { type: "search", placeholder: t("Find in captions"), "aria-label": t("Find in captions"), autocomplete: "off" });
    let pause = 0;
    search.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => narrow({ text: search.value.trim() }), 250);
    });
    search.addEventListener("keydown", (event) => event.stopPropagation());
    search.value = filter.text;
    const among = make("input", { type: "search", placeholder: t("Find a tag"), "aria-label": t("Find a tag"), autocomplete: "off", oninput: () => drawChips() });
    const root = own("section", "studio", {},
      put("empty", make("div", { class: "train-lora-empty" })),
      put("whole", own("div", "whole", {},
        own("header", "head", {}, put("sum", own("p", "sum")),
          own("span", "ends", {},
            put("unsaved", button("", saveAll, { "data-kind": "first", hidden: true })),
            put("check", button(t("Check captions"), () => (findings ? ((findings = null), drawFindings()) : check()), { "aria-expanded": "false" })),
            put("changes", button(t("History"), () => (history ? ((history = null), drawHistory()) : readHistory()), { "aria-expanded": "false" })),
            button("↻", () => load(true), { title: t("Read the captions again"), "aria-label": t("Read the captions again") }))),
        put("notes", own("div", "notes")),
        put("findings", own("div", "findings", { hidden: true })),
        put("history", own("div", "history", { hidden: true })),
        own("div", "filter", {}, search, put("folders", own("span", "folders")), put("missing", button(t("Without a caption"), () => narrow({ missing: filter.missing ? null : true }), { "aria-pressed": "false" })),
          put("active", own("span", "active"))),
        put("tags", own("details", "tags", { open: true },
          make("summary", {}, put("different", make("span", {})), make("small", {}, t("click: with it, again: without it"))),
          among, put("chips", own("div", "chips", { "data-as-it-is": true })), put("more", quiet("", () => { allTags = !allTags; drawChips(); })))),
        own("div", "change", {},
          put("tools", own("div", "tools", { role: "group" }, put("about", make("b", {})), ...Object.entries(TOOLS).map(([name, [title]]) =>
            button(t(title), () => { tool = tool === name ? "" : name; preview = null; drawForm(); drawPreview(); }, { "data-tool": name, "aria-pressed": "false" })))),
          put("form", own("div", "form", { hidden: true })),
          put("preview", own("div", "preview", { hidden: true, "aria-live": "polite" }))),
        put("rows", own("div", "rows", { role: "list" })),
        put("pager", own("div", "pager")))),
      put("told", make("div", { class: "train-lora-box train-lora-cs-told", role: "status", hidden: true })));
    found.root = root;
    found.among = among;
    element.replaceChildren(root);
    return found;
  }

  function drawAll() {
    if (!part) return;
    drawEmpty();
    drawTold();
    if (!page) return;
    drawSum();
    drawNotes();
    drawFilter();
    drawChips();
    drawForm0();
    drawPreview();
    drawRows();
    drawHistory();
    drawFindings();
  }

  // The form of the tool that is open stays as it was typed.
  function drawForm0() {
    if (Boolean(part.form.firstChild) !== Boolean(tool)) drawForm();
  }

  function drawEmpty() {
    show(part.whole, Boolean(page));
    show(part.empty, !page);
    if (page) return;
    const folder = set().folder;
    part.empty.replaceChildren(
      make("b", {}, folder ? t("No captions can be shown.") : t("No captions yet.")),
      ...(folder ? failed.map((line) => make("span", {}, line)) : [make("span", {}, t("They are read from the folder of pictures."))]),
      make("span", {}, make("button", { type: "button", class: "train-lora-button", "data-step": "pictures" }, t("Go to Pictures")), " ", folder && button(t("Read again"), () => load(true))));
  }

  function drawTold() {
    if (!part) return;
    show(part.told, Boolean(told));
    if (!told) return;
    mark(part.told, "data-kind", told.kind);
    const undo = told.undo ? [quiet(t("Undo"), () => takeBack(told.undo))] : [];
    part.told.replaceChildren(make("div", {}, ...told.lines.map((line) => make("p", {}, line))), ...undo, quiet("×", () => tell("", []), { "aria-label": t("Close") }));
  }

  function drawSum() {
    const all = [pictures(page.total)];
    if (page.missing) all.push(t("{count} without a caption", { count: count(page.missing) }));
    part.sum.replaceChildren(asItIs(page.root, { class: "train-lora-cs-name" }), make("span", {}, all.join(" · ")));
    drawUnsaved();
  }

  function drawUnsaved() {
    const number = [...drafts.values()].filter((one) => one.text !== one.before).length;
    show(part.unsaved, number > 1 || [...drafts.keys()].some((name) => !page?.rows.some((row) => row.name === name) && drafts.get(name).text !== drafts.get(name).before));
    say(part.unsaved, t("Save {count}", { count: captions(number) }));
  }

  function drawNotes() {
    const foreign = Object.entries(page.encodings);
    const notes = [];
    if (foreign.length) {
      const number = foreign.reduce((sum, [, n]) => sum + n, 0);
      const as = choice([["", t("read as it is shown")], ...["GBK", "Shift-JIS", "cp1252", "UTF-16"].map((name) => [name, t("read as {encoding}", { encoding: name })])], "", t("Encoding"));
      notes.push(make("div", { class: "train-lora-box", "data-kind": "warning" },
        make("p", {}, t("Not in UTF-8: {count}, in {encodings}. Look whether they read right; what is written is UTF-8.", { count: captions(number), encodings: foreign.map(([name, n]) => `${foreign.length > 1 ? `${name} (${n})` : name}`).join(", ") })),
        own("div", "ends", {}, button(t("Show them"), () => { narrow({ ...EMPTY, foreign: true }); clearSearch(); }), as,
          button(t("Save them as UTF-8 …"), () => look([{ edit: "save", read_as: as.value }], { filter: { ...EMPTY, foreign: true, names: undefined } })))));
    }
    if (page.unreadable) notes.push(make("div", { class: "train-lora-box", "data-kind": "warning" }, make("p", {}, t("{count} can't be read: “Check captions” tells why.", { count: captions(page.unreadable) }))));
    part.notes.replaceChildren(...notes);
  }

  function drawFilter() {
    drawTrigger();
    mark(part.missing, "aria-pressed", Boolean(filter.missing));
    show(part.missing, page.missing > 0 || Boolean(filter.missing));
    const own_ = page.folders.filter((one) => !one.is_reg);
    part.folders.replaceChildren(...(own_.length > 1 || filter.folder
      ? [choice([["", t("All folders")], ...own_.map((one) => [one.name, `${one.name} (${count(one.pictures)})`])], filter.folder, t("Folder"), (value) => narrow({ folder: value }))] : []));
    const chips = [
      ...filter.tags.map((tag) => ["with", tag, () => narrow({ tags: filter.tags.filter((one) => one !== tag) })]),
      ...filter.without.map((tag) => ["without", tag, () => narrow({ without: filter.without.filter((one) => one !== tag) })]),
    ].map(([kind, tag, off]) => make("button", { type: "button", class: "train-lora-cs-chip", "data-kind": kind, onclick: off, title: t("Take this filter away") }, kind === "with" ? "" : "− ", asItIs(tag), " ×"));
    if (filter.foreign) chips.push(make("button", { type: "button", class: "train-lora-cs-chip", "data-kind": "with", onclick: () => narrow({ foreign: false }), title: t("Take this filter away") }, t("not in UTF-8"), " ×"));
    if (filter.names) chips.push(make("button", { type: "button", class: "train-lora-cs-chip", "data-kind": "with", onclick: () => { why = ""; narrow({ names: null }); }, title: t("Take this filter away") }, why || pictures(filter.names.length), " ×"));
    if (selected.size) chips.push(make("button", { type: "button", class: "train-lora-cs-chip", "data-kind": "with", onclick: () => { selected.clear(); drawRows(); } }, t("{count} selected", { count: count(selected.size) }), " ×"));
    part.active.replaceChildren(...chips);
    const number = selected.size || page.matching;
    say(part.about, t("Change {count}:", { count: captions(number) }));
  }

  function drawChips() {
    const wanted = key(part.among.value);
    const fitting = tags.tags.filter(([tag]) => !wanted || key(tag).includes(wanted));
    const shown = allTags ? fitting.slice(0, 600) : fitting.slice(0, CHIPS);
    say(part.different, t("{count} different tags", { count: count(tags.different) }));
    list(part.chips, shown, ([tag, number]) => `${tag} ${number} ${state(tag)}`, ([tag, number]) =>
      make("button", { type: "button", class: "train-lora-cs-chip", "data-kind": state(tag), "aria-pressed": String(state(tag) !== ""), onclick: () => turn(tag) }, tag, make("small", {}, ` ${count(number)}`)));
    show(part.tags, tags.different > 0);
    show(part.more, fitting.length > CHIPS);
    say(part.more, allTags ? t("Show fewer") : t("Show all {count}", { count: count(fitting.length) }));
    show(part.among, tags.different > 12);
  }

  const state = (tag) => (filter.tags.includes(tag) ? "with" : filter.without.includes(tag) ? "without" : "");

  function turn(tag) {
    const [having, without] = [filter.tags.filter((one) => one !== tag), filter.without.filter((one) => one !== tag)];
    if (state(tag) === "") having.push(tag);
    else if (state(tag) === "with") without.push(tag);
    narrow({ tags: having, without });
  }

  function drawRows() {
    drawFilter();
    const rows = page.rows.map((row) => ({ row, key: [row.id, row.digest, row.encoding, selected.has(row.name), drafts.has(row.name), filter.tags.join()].join(" ") }));
    list(part.rows, rows, (one) => one.key, ({ row }) => drawn(row));
    if (!rows.length) part.rows.replaceChildren(own("p", "none", {}, t("No caption is like this."), " ", quiet(t("Show all"), () => { why = ""; narrow({ ...EMPTY }); clearSearch(); })));
    const last = Math.min(page.matching, offset + PAGE);
    const turnTo = (place) => { offset = place; load().then(() => part.rows.scrollIntoView({ block: "nearest" })); };
    part.pager.replaceChildren(...(page.matching > PAGE ? [
      button("←", () => turnTo(offset - PAGE), { disabled: offset === 0, "aria-label": t("Earlier") }),
      make("span", {}, t("{first} to {last} of {total}", { first: count(offset + 1), last: count(last), total: count(page.matching) })),
      button("→", () => turnTo(offset + PAGE), { disabled: last >= page.matching, "aria-label": t("Later") }),
    ] : []));
    drawUnsaved();
    goOnTyping();
  }

  function clearSearch() {
    const box = part.root.querySelector(".train-lora-cs-filter input[type=search]");
    if (box) box.value = "";
  }

  function drawn(row) {
    const box = make("input", { type: "checkbox", "aria-label": t("Select {name}", { name: row.name }), onchange: () => { if (box.checked) selected.add(row.name); else selected.delete(row.name); preview = null; drawPreview(); drawFilter(); } });
    box.checked = selected.has(row.name);
    const image = make("img", { src: thumbnail(row.id, 192), alt: "", loading: "lazy", width: 96, height: 96 });
    const large = make("button", { type: "button", class: "train-lora-cs-picture", title: t("Enlarge"), onclick: () => enlarge(row) }, image);
    return own("div", "row", { role: "listitem", "data-problem": Boolean(row.problem) },
      own("div", "face", {}, large, box), own("div", "words", {}, badges(row), drafts.has(row.name) ? editor(row) : caption(row)));
  }

  function enlarge(row) {
    const items = page.rows.map((one) => ({ src: thumbnail(one.id, 1024), title: one.name }));
    lora.lightbox(items, page.rows.findIndex((one) => one.name === row.name));
  }

  const limitOf = (tokens) => [75, 150, 225].find((bound) => tokens <= bound) || 225;

  function badges(row) {
    const longest = Number(valueOf("train_lora_max_token_length")) || 75;
    const [folder, ...rest] = row.name.split("/");
    const name = page.folders.length > 1 ? [make("small", {}, `${folder}/`), rest.join("/")] : [rest.join("/")];
    const told_ = [];
    if (row.encoding) told_.push(make("em", { "data-kind": "warning", title: t("Read as {encoding}; written as UTF-8", { encoding: row.encoding }) }, row.encoding));
    if (row.note) told_.push(make("em", { "data-kind": "warning", title: message(row.note) }, "!"));
    if (row.tokens > longest) told_.push(make("em", { "data-kind": "warning", title: t("Only the first {count} are read, unless the training reads more", { count: longest }) }, t("{count} tokens", { count: row.tokens })));
    else if (row.tokens) told_.push(make("small", { title: t("of {limit} that fit", { limit: limitOf(Math.max(row.tokens, longest)) }) }, t("{count} tokens", { count: row.tokens })));
    return own("div", "badges", {}, make("span", { "data-as-it-is": true }, ...name), ...told_);
  }

  function caption(row) {
    if (row.problem) return own("p", "problem", {}, message(row.problem));
    const hits = new Set(filter.tags.map(key));
    const trigger = new Set(studio.trigger().split(",").map(key).filter(Boolean));
    const lines = split(row.caption).filter((line, at, all) => line.length || all.length > 1);
    const shown = lines.flatMap((line, at) => [...(at ? [make("br")] : []), ...line.flatMap((tag, place) => {
      const kind = hits.has(key(tag)) ? "mark" : trigger.has(key(tag)) ? "b" : "span";
      return [...(place ? [", "] : []), make(kind, {}, tag)];
    })]);
    const empty = !lines.some((line) => line.length);
    return make("button", { type: "button", class: "train-lora-cs-caption", "data-name": row.name, title: t("Edit"), onclick: () => open(row) },
      empty ? make("em", {}, t("No caption yet: click to write one")) : make("span", { "data-as-it-is": true }, ...shown));
  }

  function drawPreview() {
    if (!part) return;
    show(part.preview, Boolean(preview));
    if (!preview) {
      part.preview.replaceChildren();
      return;
    }
    const { total, changes, skipped, flips, writing } = preview;
    const lines = [];
    if (preview.then && studio.trigger()) lines.push(make("p", {}, t("Keep tokens becomes {count}, so that shuffling leaves the trigger word in front.", { count: studio.trigger().split(",").filter((one) => one.trim()).length })));
    if (writing) lines.push(make("p", {}, t("Left out: {count} with text or a signature, since mirrored writing can't be read.", { count: pictures(writing) })));
    if (skipped.length) lines.push(make("ul", {}, ...skipped.slice(0, 5).map((one) => make("li", {}, message(one))), ...(skipped.length > 5 ? [make("li", {}, t("and {count} more", { count: count(skipped.length - 5) }))] : [])));
    const close = () => { preview = null; drawPreview(); };
    if (!total) {
      part.preview.replaceChildren(make("p", {}, make("b", {}, flips ? t("There is nothing to mirror.") : t("No caption would change."))), ...lines, own("div", "ends", {}, button(t("Close"), close)));
      return;
    }
    const title = flips ? t("{count} would be made", { count: total === 1 ? t("1 mirrored copy") : t("{count} mirrored copies", { count: count(total) }) }) : t("{count} would change", { count: captions(total) });
    const shown = changes.slice(0, SHOWN).map((one) => own("div", "changed", {},
      make("img", { src: thumbnail(one.picture, 96), alt: "", loading: "lazy", width: 44, height: 44, "data-mirrored": Boolean(flips) }),
      make("div", {}, make("small", { "data-as-it-is": true }, one.name, one.note ? ` (${one.note})` : ""), compared(one.before, one.after))));
    const more = total > shown.length ? [make("p", {}, t("and {count} more", { count: count(total - shown.length) }))] : [];
    part.preview.replaceChildren(
      own("header", "head", {}, make("b", {}, title), own("span", "ends", {},
        button(flips ? t("Make the copies") : t("Write these changes"), write, { "data-kind": "first" }), button(t("Cancel"), close))),
      ...lines, own("div", "changedlist", {}, ...shown, ...more));
  }

  function drawHistory() {
    show(part.history, Boolean(history));
    mark(part.changes, "aria-expanded", Boolean(history));
    if (!history) return;
    const row = (one) => own("div", "entry", { "data-undone": one.undone },
      make("small", {}, new Date(one.time * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" })), make("span", {}, message(one.title)),
      make("small", {}, one.files === 1 ? t("1 file") : t("{count} files", { count: count(one.files) })), one.undone ? make("em", {}, t("taken back")) : quiet(t("Take back"), () => takeBack(one.id)));
    part.history.replaceChildren(make("b", {}, t("What was changed")), ...(history.length ? history.map(row) : [make("p", {}, t("Nothing yet. Everything that is written here can be taken back, also after a restart."))]));
  }

  const SAFE = ["trigger", "encoding", "repeated", "spelling", "syntax"];

  function drawFindings() {
    show(part.findings, Boolean(findings));
    mark(part.check, "aria-expanded", Boolean(findings));
    if (!findings) return;
    const rows = findings.map((one) => own("div", "finding", { "data-kind": one.hint ? "hint" : "wrong" },
      make("i", { "aria-hidden": "true" }), make("div", {}, make("p", {}, message(one.text)), ...rareTags(one), own("div", "ends", {}, ...waysOut(one)))));
    const good = make("p", {}, t("Nothing is wrong with these captions, as far as a program can tell."));
    part.findings.replaceChildren(own("header", "head", {}, make("b", {}, findings.length ? t("What was found") : t("All is well")), quiet("×", () => { findings = null; drawFindings(); }, { "aria-label": t("Close") })), ...(rows.length ? rows : [good]));
  }

  const rareTags = (one) => (one.kind !== "rare" ? [] : [own("div", "chips", { "data-as-it-is": true }, ...one.tags.slice(0, 40).map((tag) =>
    make("button", { type: "button", class: "train-lora-cs-chip", onclick: () => { why = ""; narrow({ ...EMPTY, tags: [tag.toLowerCase()] }); clearSearch(); toRows(); } }, tag)))]);

  const toRows = () => part.rows.scrollIntoView({ block: "start", behavior: "smooth" });

  function waysOut(one) {
    const ways = [];
    const names = one.pictures;
    if (names.length) ways.push(button(t("Show {count}", { count: pictures(names.length) }), () => { why = t("from the check: {count}", { count: pictures(names.length) }); narrow({ ...EMPTY, names }); clearSearch(); toRows(); }));
    if (one.edit && SAFE.includes(one.kind)) ways.push(button(t("Mend …"), () => look([one.edit], { filter: { ...EMPTY, names } }), { "data-kind": "first", title: message(one.title) }));
    else if (one.edit && one.kind === "contradiction") ways.push(button(t("Suggestion: {edit} …", { edit: message(one.title) }), () => look([one.edit], { filter: { ...EMPTY, names } })));
    const reads = /max_token_length (\d+) reads them whole/.exec(one.text);
    if (reads) ways.push(button(t("Set Caption length to {count} …", { count: reads[1] }), () => lora.fields.goTo(find("train_lora_max_token_length")), { title: t("Goes to the field in the step Training") }));
    return ways;
  }

  // In the page

  function drawTrigger() {
    const place = find("train_lora_trigger_place");
    if (!place) return;
    if (!place.firstChild) place.append(button("", () => part && page && putTrigger(), { title: t("Shows what would change, and sets Keep tokens to match") }));
    say(place.firstChild, filter.folder ? t("Put it first in every caption of {folder} …", { folder: filter.folder }) : t("Put it first in every caption …"));
  }

  function draw(status, element) {
    const before = part;
    part = lora.once(element, build);
    if (part !== before && before) find("train_lora_trigger_place")?.replaceChildren();
    drawTrigger();
    const visible = element.getClientRects().length > 0;
    if (part !== filled && loaded && visible) {
      filled = part; // also one that was built out of sight
      drawAll();
    }
    if (visible && loaded !== JSON.stringify(set())) fresh();
  }

  // Another folder: nothing of the one before holds. What was typed there and not written yet waits until it is shown again.
  function fresh() {
    const typed = [...drafts].filter(([, draft]) => draft.text !== draft.before), former = loaded && JSON.parse(loaded).folder;
    if (typed.length) waiting.set(loaded, new Map(typed));
    [filter, why, offset, page, tags, findings, history, preview, told] = [{ ...EMPTY }, "", 0, null, null, null, null, null, null];
    selected.clear();
    drafts.clear();
    clearSearch();
    const now = JSON.stringify(set());
    for (const [name, draft] of waiting.get(now) || []) drafts.set(name, draft);
    waiting.delete(now);
    load(true);
    if (typed.length) tell("warning", [typed.length === 1 ? t("1 caption of {folder} isn't written yet. It is here again when you come back to that folder.", { folder: former }) : t("{count} captions of {folder} aren't written yet. They are here again when you come back to that folder.", { count: count(typed.length), folder: former })]);
  }

  let wait = 0;
  document.addEventListener("input", (event) => {
    if (!event.target.closest || !event.target.closest("#train_lora_train_data_dir, #train_lora_caption_extension")) return;
    clearTimeout(wait);
    wait = setTimeout(() => lora.status() && find("train_lora_caption_studio") && draw(lora.status(), find("train_lora_caption_studio")), 500);
  }, true);
  window.addEventListener("beforeunload", (event) => {
    if (waiting.size || [...drafts.values()].some((one) => one.text !== one.before)) event.preventDefault();
  });

  Object.assign(studio, { again: () => part && page && again(), takeBack: (entry) => part && page && takeBack(entry), keepFirst, key });
  lora.register("caption-studio", { id: "train_lora_caption_studio", draw });
})();
