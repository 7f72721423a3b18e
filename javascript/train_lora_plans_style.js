// The planner of a style: pictures in classes, corrected by click, key or drag; variants; the plan beside them, live.
(() => {
  "use strict";
  const lora = window.trainLora, plans = lora && lora.plans;
  if (!plans || plans.style) return;
  const { t, message, make, say, show, mark, count } = lora;
  const { own, button, link, asItIs, field, number, tick, choice, tell, box, progress } = plans;
  plans.style = true;
  const [BLOCK, KEPT, GAP, AHEAD] = [100, 30, 5, 2]; // pictures of a request; requests kept of a class; pixels; rows
  const SUMS = [0, 2500];
  let part = null, project = null, now = null, painting = 0, pending = 0, sent = 0;
  let anchor = "", dragged = null, sending = Promise.resolve(), written = null;
  const pictures = new Map(), lanes = new Map(), cards = new Map(); // by id; by class: {total, ids with holes, blocks, turn}; shown
  const selected = new Set(), past = [], changed = new Set();

  const NAMES = { main: /* t */ "Main visual", face: /* t */ "Face close-up", full: /* t */ "Full body", discard: /* t */ "Left out", "": /* t */ "Not sorted", variants: /* t */ "Variants" };
  const title = (name) => (name in NAMES ? t(NAMES[name]) : name);
  const HINTS = {
    main: /* t */ "The subject fills about half of the picture, which is about 2 : 3",
    face: /* t */ "Makes the faces look like those of the style", full: /* t */ "For the lower half of the body; a few will do",
    discard: /* t */ "Overloaded, extreme poses, or simply not this style", "": "",
  };

  function why(picture) {
    const told = picture.why;
    if (picture.problem) return message(picture.problem);
    if (picture.by === "hand" || !told) return "";
    const values = { percent: Math.round(100 * told.number), number: told.number };
    const words = {
      face: /* t */ "the face has {percent} % of the height", figure: /* t */ "the face has {percent} % of the height", full: /* t */ "about {number} heads are seen below the crown",
      shape: /* t */ "by its shape alone, {number} wide to 1 high", tiny: /* t */ "only {number} pixels", long: /* t */ "{number} wide to 1 high", broken: /* t */ "it can't be used", twin: /* t */ "the same picture is there already",
    };
    return told.why in words ? t(words[told.why], values) : "";
  }

  const thumbnail = (id, side) => `${lora.API}pictures/${project.id}/thumbnails/${id}/${side}.jpg?blank=1`;

  // The panel

  function build(pane) {
    const made = {}, put = (name, child) => (made[name] = child);
    const options = own("div", "row", {},
      put("look", button(t("Suggest classes and find variants"), look, { class: "train-lora-button train-lora-primary" })),
      put("detectors", make("select", { "aria-label": t("How faces are found") })),
      put("undo", button(t("Undo"), undo, { disabled: true, title: "Ctrl+Z" })));
    pane.replaceChildren(
      options,
      put("task", progress()).element,
      put("problem", box()),
      own("div", "style", {},
        own("div", "left", {},
          put("bar", own("div", "choose", { role: "toolbar", "aria-label": t("What becomes of the chosen pictures") })),
          put("lanes", own("div", "lanes", {})),
          own("div", "row", {}, put("new", make("input", { type: "text", maxlength: 40, placeholder: t("Another class, such as backs"), "aria-label": t("Another class"), onkeydown: (event) => { if (event.key === "Enter") addClass(); } })), button(t("Add class"), addClass))),
        put("side", own("aside", "side", { "aria-label": t("The plan") }, ...side(put)))));
    pane.addEventListener("keydown", keys);
    new ResizeObserver(scrolled).observe(made.lanes);
    part = made;
    return made;
  }

  function side(put) {
    return [
      own("div", "gauges", {}, put("ratio", gauge(t("Main visuals to faces"))).element, put("sum", gauge(t("Uses an epoch, mirrored copies counted"))).element),
      put("table", make("table", { class: "train-lora-pl-table" })),
      put("rules", own("ul", "rules", {})),
      put("mends", own("div", "mends", { hidden: true })),
      own("div", "options", {},
        put("flipped", tick(t("Mirrored copies are made"), true, (on) => send({ flipped: on }), t("When the captions are written. Without them every use counts for four."))).label,
        put("colour", tick(t("The style is in colour"), true, (on) => send({ colour: on }))).label,
        put("variants", tick(t("Variants have a folder of their own"), true, (on) => send({ variants: on }))).label),
      field(t("Name of the style"), put("name", make("input", { type: "text", maxlength: 60, placeholder: t("in front of each folder's name"), onchange: () => send({ style: part.name.value }) }))),
      put("write", button(t("Write the folders"), write, { class: "train-lora-button train-lora-primary", disabled: true })),
      put("what", make("p", { class: "train-lora-hint" })),
      put("done", make("div", { class: "train-lora-box", "data-kind": "ok", role: "status", hidden: true })),
    ];
  }

  // A number on a line, with the stretch where it should be.
  function gauge(text) {
    const band = make("b"), at = make("i"), value = make("strong", {}, "–"), wanted = make("span");
    const element = own("div", "gauge", {}, own("div", "gauge-words", {}, make("span", {}, text), value, wanted), own("div", "gauge-line", { "aria-hidden": "true" }, band, at));
    return {
      element,
      draw(number, low, high, [least, most], text, range) {
        const place = (one) => `${Math.min(100, Math.max(0, (100 * (one - least)) / (most - least)))}%`;
        band.style.left = place(low);
        band.style.right = `calc(100% - ${place(high)})`;
        show(at, Number.isFinite(number));
        at.style.left = place(number);
        say(value, Number.isFinite(number) ? text : "–");
        say(wanted, t("wanted {low} to {high}", range));
        mark(element, "data-kept", Number.isFinite(number) ? number >= low && number <= high : "");
      },
    };
  }

  // What the server says

  async function draw(found, changed) {
    if (!found) return;
    if (!changed && project && project.id === found.id) return;
    const same = project && project.id === found.id;
    project = found;
    if (!same) {
      selected.clear();
      past.length = 0;
      written = null;
      now = null;
      for (const held of [pictures, lanes, cards]) held.clear();
      part.lanes.replaceChildren();
    }
    await again();
  }

  async function again() {
    try {
      const before = sent, told = await lora.get(`sets/${project.id}/style`);
      if (pending || before !== sent) { // it is older than what was changed meanwhile
        await sending;
        await again();
        return;
      }
      receive(told);
      stale([...lanes.keys()]);
      tell(part.problem, []);
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  function receive(told) {
    now = told;
    if (!pending) for (const one of told.pictures || []) pictures.set(one.id, one);
    for (const name of [...lanes.keys()]) if (name && !now.classes.includes(name)) lanes.delete(name);
    for (const name of ["", ...now.classes]) {
      const lane = lanes.get(name) || { total: 0, ids: [], blocks: new Map(), turn: 0 };
      if (!pending) lane.total = lane.ids.length = now.counts[name] || 0;
      lanes.set(name, lane);
    }
    redraw();
  }

  // What is shown of these classes is asked for again.
  function stale(names) {
    for (const lane of names.map((name) => lanes.get(name)).filter(Boolean)) {
      lane.turn += 1;
      lane.blocks.clear();
    }
    redraw();
  }

  async function load(name, block) {
    const lane = lanes.get(name), asked = lane.turn;
    if (lane.blocks.has(block) || (pending && changed.has(name))) return;
    lane.blocks.set(block, "asked");
    try {
      const query = new URLSearchParams({ class: name, offset: block * BLOCK, limit: BLOCK });
      const page = await lora.get(`sets/${project.id}/style/pictures?${query}`);
      if (asked !== lane.turn || lanes.get(name) !== lane) return;
      lane.total = lane.ids.length = page.total;
      page.pictures.forEach((one, index) => {
        pictures.set(one.id, one);
        lane.ids[page.offset + index] = one.id;
      });
      lane.blocks.set(block, "there");
      forget(lane);
      redraw();
    } catch (error) {
      if (asked === lane.turn) tell(part.problem, lora.problems(error));
    }
  }

  // What was looked at long ago goes, so that as much is held of 10,000 pictures as of a thousand.
  function forget(lane) {
    for (const block of [...lane.blocks.keys()].slice(0, Math.max(0, lane.blocks.size - KEPT))) {
      lane.blocks.delete(block);
      for (let index = block * BLOCK; index < Math.min(lane.total, (block + 1) * BLOCK); index += 1) {
        if (!selected.has(lane.ids[index])) pictures.delete(lane.ids[index]);
        delete lane.ids[index];
      }
    }
  }

  // Changes go one after the other. While others wait the page shows more than an answer knows, so the lanes are read
  // again after the last one. Gives the answer, or null.
  function send(body, touched) {
    pending += 1;
    sent += 1;
    for (const name of touched || []) changed.add(name);
    sending = sending.then(async () => {
      let told = null;
      try {
        told = await lora.post(`sets/${project.id}/style`, body);
        tell(part.problem, []);
        if (told.different > told.pictures.length || (!touched && told.different)) for (const name of lanes.keys()) changed.add(name);
      } catch (error) {
        for (const name of lanes.keys()) changed.add(name);
        tell(part.problem, lora.problems(error));
      }
      pending -= 1;
      if (told) receive(told);
      else if (!pending) await lora.get(`sets/${project.id}/style`).then((now) => pending || receive(now), () => {});
      if (!pending) {
        stale([...changed]);
        changed.clear();
      }
      return told;
    });
    return sending;
  }

  async function look() {
    try {
      await plans.start(`sets/${project.id}/style/look`, { detector: part.detectors.value }, part.problem);
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  async function write() {
    show(part.done, false);
    try {
      await sending;
      await plans.start(`sets/${project.id}/style/write`, {}, part.problem);
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  function task(one) {
    if (!part || !["style-look", "style-write"].includes(one.kind)) return;
    part.task.draw(one, (task) => one.kind === "style-look"
      ? t("Looking at pictures: {done} of {total}", { done: count(Math.ceil(task.done / 2)), total: count(Math.ceil(task.total / 2)) })
      : t("Writing: {done} of {total} pictures", { done: count(task.done), total: count(task.total) }));
    if (one.state === "running" || !project || handled.has(one.id)) return;
    handled.add(one.id);
    if (one.error) tell(part.problem, [message(one.error)]);
    const result = one.result;
    if (!result || result.project !== project.id) return;
    if (one.kind === "style-write" && !result.stopped) wrote(result, Date.now() - loadedAt > 3000);
    draw(project, true);
  }
  const handled = new Set(), loadedAt = Date.now();

  // fresh: it was written while this page is open, so its fields are set
  function wrote(result, fresh) {
    written = result;
    if (fresh) plans.written().then(() => plans.take(result.fields));
    const folders = result.folders.map((one) => make("li", {}, asItIs(one.name), " ", make("small", {}, pictureCount(one.pictures))));
    const numbers = [[result.copied, /* t */ "{count} copied"], [result.moved, /* t */ "{count} moved with their captions"], [result.aside, /* t */ "{count} put aside"], [result.kept, /* t */ "{count} as they were"]];
    const told = numbers.filter(([n]) => n).map(([n, text]) => t(text, { count: count(n) })).join(", ");
    part.done.replaceChildren(
      make("p", {}, make("b", {}, result.entry === null ? t("Nothing had to be changed.") : t("The folders are written.")), " ", told),
      make("ul", {}, ...folders),
      ...(result.left_out.length ? [make("p", {}, t("Not trained on themselves any more, since their copies are:"), " ", asItIs(result.left_out.join(", ")))] : []),
      make("p", {}, t("Training is set to these folders, eight epochs, keep_tokens 3, shuffled captions and noise offset 0.1.")),
      own("div", "row", {},
        result.entry === null ? null : button(t("Undo"), () => takeBack(result.entry)),
        button(t("On to the captions"), null, { "data-step": "captions" })));
    show(part.done, true);
  }

  async function takeBack(entry) {
    try {
      const told = await lora.post(`pictures/${project.id}/undo`, { change: entry });
      show(part.done, false);
      const stays = told.changed.length ? [t("Changed since, so they stay: {names}", { names: told.changed.join(", ") })] : [];
      await again();
      plans.written();
      tell(part.problem, [t("The folders are as they were before."), ...stays], "note");
    } catch (error) {
      tell(part.problem, lora.problems(error));
    }
  }

  function addClass() {
    const name = part.new.value.trim();
    if (!name) return;
    send({ add_class: name }).then(() => (part.new.value = ""));
  }

  // Changes by the user

  // classes: {id: name or null}; what was before can be had back. It is shown at once, and as the server has it then.
  function sort(classes) {
    const touched = new Set();
    for (const [id, wanted] of Object.entries(classes)) {
      const picture = pictures.get(id);
      const name = wanted === null ? picture?.why?.name || "" : wanted;
      touched.add(name);
      if (!picture) continue;
      touched.add(picture.class);
      move(id, picture.class, name);
      pictures.set(id, { ...picture, class: name, by: wanted === null ? (picture.why ? "suggested" : "") : "hand" });
    }
    for (const name of touched) if (lanes.has(name)) lanes.get(name).turn += 1; // what is on its way is older
    const going = send({ classes }, [...touched]);
    redraw();
    return going.then((told) => {
      if (told) past.push({ classes: told.before.classes });
      redraw();
    });
  }

  function move(id, from, to) {
    const [old, next] = [lanes.get(from), lanes.get(to)], at = old ? old.ids.indexOf(id) : -1;
    if (from === to || at < 0 || !next) return;
    old.ids.splice(at, 1);
    old.total -= 1;
    next.ids.push(id);
    next.total += 1;
  }

  const put = (name) => selected.size && sort(Object.fromEntries([...selected].map((id) => [id, name])));

  function group(together) {
    const ids = [...selected];
    if (!ids.length || (together && ids.length < 2)) return;
    past.push(together ? { split: ids } : { join: ids });
    send(together ? { join: ids } : { split: ids });
  }

  function undo() {
    sending.then(() => {
      const last = past.pop();
      if (last) send(last, [...lanes.keys()]);
    });
  }

  // Choosing

  async function choose(id, event) {
    const row = event.shiftKey && anchor ? await between(anchor, id) : null;
    if (row) {
      if (!event.ctrlKey && !event.metaKey) selected.clear();
      for (const one of row) selected.add(one);
    } else if (event.ctrlKey || event.metaKey || event.toggle) {
      if (!selected.delete(id)) selected.add(id);
      anchor = id;
    } else {
      const only = selected.size === 1 && selected.has(id);
      selected.clear();
      if (!only) selected.add(id);
      anchor = id;
    }
    paintChosen();
  }

  // The ids from one to the other, those of a class that aren't here yet too; null where one is nowhere.
  async function between(from, to) {
    const name = pictures.get(to)?.class;
    const known = name === pictures.get(from)?.class ? await whole(name) : ["", ...now.classes].flatMap(inLane);
    const [a, b] = [known.indexOf(from), known.indexOf(to)].sort((x, y) => x - y);
    return a < 0 ? null : known.slice(a, b + 1);
  }

  // The ids of a class.
  async function whole(name) {
    const known = inLane(name);
    if (known.length === lanes.get(name)?.total) return known;
    try {
      return (await lora.get(`sets/${project.id}/style/ids?${new URLSearchParams({ class: name })}`)).ids;
    } catch (error) {
      tell(part.problem, lora.problems(error));
      return known;
    }
  }

  const varied = () => [...selected].some((id) => (pictures.get(id)?.group ?? null) !== null);

  function paintChosen() {
    if (!part || !now) return;
    for (const [id, card] of cards) {
      mark(card, "aria-selected", selected.has(id));
      mark(card, "data-chosen", selected.has(id));
    }
    const many = selected.size;
    mark(part.bar, "data-many", many);
    lora.fill(part.bar, JSON.stringify([many, now.classes, varied()]), () => !many ? [make("p", { class: "train-lora-hint" }, t("Click to choose, Shift for a row, Ctrl for single ones; then drag, or press the number of a class. G: variants of one another. Arrows move, Space chooses."))] : [
      make("b", {}, many === 1 ? t("1 chosen") : t("{count} chosen", { count: count(many) })),
      ...now.classes.map((name, index) => button([title(name), make("kbd", {}, String(index + 1))], () => put(name), { "data-class": name })),
      button(t("As suggested"), () => put(null)),
      many > 1 && button([t("Variants of one another"), make("kbd", {}, "G")], () => group(true)),
      varied() && button(t("No variants"), () => group(false)),
      many === 1 && button(t("Enlarge"), () => enlarge([...selected][0])),
      link(t("Choose none"), () => { selected.clear(); paintChosen(); }),
    ]);
  }

  function enlarge(id) {
    const picture = pictures.get(id);
    const dialog = own("dialog", "large", { onclick: () => dialog.close(), onclose: () => dialog.remove() },
      make("img", { src: thumbnail(id, 512), alt: picture.file }),
      make("p", {}, asItIs(picture.file), " · ", picture.width ? `${picture.width} × ${picture.height}` : "", why(picture) ? " · " + why(picture) : ""));
    part.side.append(dialog);
    dialog.showModal();
  }

  function keys(event) {
    if (event.target.matches("input, select, textarea")) return;
    const card = event.target.closest("[data-picture]"), number = Number(event.key);
    const act = (done) => { event.preventDefault(); event.stopPropagation(); done(); };
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") return act(undo);
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a" && card) {
      return act(async () => { for (const id of await whole(pictures.get(card.dataset.picture).class)) selected.add(id); paintChosen(); });
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return undefined;
    if (event.key === "Escape" && selected.size) return act(() => { selected.clear(); paintChosen(); });
    if (!card) return undefined;
    const id = card.dataset.picture;
    if (event.key === " ") return act(() => choose(id, { toggle: true }));
    if (event.key === "Enter") return act(() => enlarge(id));
    if (event.key.startsWith("Arrow")) return act(() => step(card, event));
    const chosen = () => { if (!selected.has(id)) { selected.clear(); selected.add(id); anchor = id; } };
    if (number >= 1 && number <= now.classes.length) return act(() => { chosen(); next(id, () => put(now.classes[number - 1])); });
    if (event.key.toLowerCase() === "g") return act(() => group(true));
    if (event.key === "Delete") return act(() => { chosen(); next(id, () => put("discard")); });
    return undefined;
  }

  // After a key the one behind it in the lane has the focus, so that a row is sorted by keys alone.
  function next(id, change) {
    const lane = inLane(pictures.get(id).class), at = lane.indexOf(id), alone = selected.size === 1;
    change();
    const wanted = lane.slice(at + 1).find((one) => cards.has(one)) || id;
    if (alone) { selected.clear(); selected.add(wanted); anchor = wanted; paintChosen(); }
    cards.get(wanted)?.focus();
  }

  function step(card, event) {
    const shown = [...part.lanes.querySelectorAll("[data-picture]")], here = card.getBoundingClientRect();
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    let best = null, least = Infinity;
    for (const one of shown) {
      const there = one.getBoundingClientRect();
      const [x, y] = [there.left - here.left, there.top - here.top];
      const ahead = dx * x + dy * y;
      if (ahead <= 2) continue;
      const far = ahead + 3 * Math.abs(dx ? y : x);
      if (far < least) [best, least] = [one, far];
    }
    if (!best) return;
    best.focus();
    if (event.shiftKey) choose(best.dataset.picture, { shiftKey: true });
  }

  // Drawing

  const inLane = (name) => (lanes.get(name)?.ids || []).filter((id) => id && pictures.has(id)); // of those that are here
  const pictureCount = (n) => (n === 1 ? t("1 picture") : t("{count} pictures", { count: count(n) }));

  function redraw() {
    if (!part || !now) return;
    const names = [...(lanes.get("")?.total ? [""] : []), ...now.classes];
    lora.list(part.lanes, names, (name) => `lane ${name}`, lane);
    cards.clear();
    for (const name of names) fillLane(name);
    drawOptions();
    drawPlan();
    paintChosen();
    part.undo.disabled = !past.length;
  }

  // While one scrolls only the cards change.
  function scrolled() {
    cancelAnimationFrame(painting);
    painting = requestAnimationFrame(() => {
      if (!part || !now || !part.lanes.isConnected) return;
      cards.clear();
      for (const element of part.lanes.children) fillLane(element.dataset.class);
      paintChosen();
    });
  }

  function lane(name) {
    const at = {};
    const element = own("section", "lane", {
      "data-class": name, "aria-label": title(name),
      ondragover: (event) => { if (dragged) { event.preventDefault(); mark(element, "data-over", true); } },
      ondragleave: (event) => { if (!element.contains(event.relatedTarget)) element.removeAttribute("data-over"); },
      ondrop: (event) => { event.preventDefault(); element.removeAttribute("data-over"); dropped(name); },
    },
      own("header", "lane-head", {},
        make("b", {}, title(name)), (at.count = make("span", { class: "train-lora-count" })),
        now.own_classes.includes(name) && link("×", () => send({ drop_class: name }), { title: t("Remove this class"), "aria-label": t("Remove this class") })),
      (at.folder = make("small", {})),
      (at.hint = make("small", { class: "train-lora-pl-lane-hint" }, HINTS[name] ? t(HINTS[name]) : "")),
      (at.cards = own("div", "cards", { role: "listbox", "aria-multiselectable": "true", "aria-label": title(name), onscroll: scrolled })));
    element.trainLoraAt = at;
    return element;
  }

  // The rows of cards that can be seen, and what stands for the others.
  function fillLane(name) {
    const element = [...part.lanes.children].find((one) => one.dataset.class === name), at = element.trainLoraAt;
    if (!lanes.has(name)) return; // another project's, until this one's are there
    const { total, ids } = lanes.get(name);
    say(at.count, count(total));
    const planned = now.plan?.classes.find((one) => one.name === name);
    say(at.folder, planned ? planned.folder : "");
    show(at.folder, Boolean(planned));
    show(at.hint, !total);
    const tracks = getComputedStyle(at.cards).gridTemplateColumns.split(" ").map(parseFloat).filter(Number.isFinite);
    const columns = tracks.length || 1, step = (tracks[0] || 62) * 1.25 + GAP, rows = Math.ceil(total / columns);
    const first = Math.max(0, Math.min(rows - 1, Math.floor(at.cards.scrollTop / step) - AHEAD));
    const last = Math.min(rows, Math.ceil((at.cards.scrollTop + (at.cards.clientHeight || 310)) / step) + AHEAD);
    const places = Array.from({ length: Math.max(0, Math.min(total, last * columns) - first * columns) }, (_, index) => first * columns + index);
    const known = (index) => ids[index] && pictures.has(ids[index]);
    for (const block of new Set(places.map((index) => Math.floor(index / BLOCK)))) if (!lanes.get(name).blocks.has(block)) load(name, block);
    const cells = places.map((index) => (known(index) ? ids[index] : `hole ${index}`));
    lora.list(at.cards, ["above", ...cells, "below"], (id) => id, (id) => (/^(above|below|hole .*)$/.test(id) ? own("div", id.startsWith("hole") ? "card" : "rest", { "aria-hidden": "true" }) : card(id)));
    for (const [rest, missing] of [[at.cards.firstChild, first], [at.cards.lastChild, rows - last]]) {
      show(rest, missing > 0);
      rest.style.cssText = `grid-column:1/-1;height:${Math.max(0, missing * step - GAP)}px`;
    }
    cells.forEach((id, index) => {
      if (!known(places[index])) return;
      const one = at.cards.children[index + 1];
      cards.set(id, one);
      paint(one, pictures.get(id));
    });
  }

  function card(id) {
    const element = own("div", "card", {
      role: "option", tabindex: "0", draggable: "true", "data-picture": id,
      onclick: (event) => choose(id, event), ondblclick: () => enlarge(id),
      ondragstart: (event) => {
        if (!selected.has(id)) { selected.clear(); selected.add(id); paintChosen(); }
        dragged = [...selected];
        event.dataTransfer.effectAllowed = "move";
        event.dataTransfer.setData("text/plain", dragged.join(" "));
      },
      ondragend: () => { dragged = null; },
    }, make("img", { src: pictures.get(id).aside || pictures.get(id).problem ? null : thumbnail(id, 128), alt: "", loading: "lazy", draggable: "false", onerror: (event) => { event.target.style.visibility = "hidden"; } }), make("i", { class: "train-lora-pl-group" }), make("em"));
    return element;
  }

  function paint(element, picture) {
    const text = [picture.file, picture.width ? `${picture.width} × ${picture.height}` : "", why(picture)].filter(Boolean).join("\n");
    mark(element, "title", text);
    mark(element, "aria-label", text.replaceAll("\n", ", "));
    mark(element, "data-by", picture.by);
    const badge = element.querySelector(".train-lora-pl-group"), grouped = picture.group !== null && picture.class !== "discard";
    show(badge, grouped);
    if (grouped) {
      say(badge, String(picture.group + 1));
      badge.style.setProperty("--hue", String((picture.group * 67) % 360));
    }
    const note = picture.problem ? "!" : picture.by === "suggested" && picture.why && !picture.why.sure ? "?" : "";
    say(element.lastChild, note);
    show(element.lastChild, Boolean(note));
  }

  function dropped(name) {
    const ids = dragged || [];
    dragged = null;
    if (!name) return;
    const moved = ids.filter((id) => pictures.get(id)?.class !== name || pictures.get(id)?.by !== "hand");
    if (moved.length) sort(Object.fromEntries(moved.map((id) => [id, name])));
  }

  function drawOptions() {
    for (const name of ["flipped", "colour", "variants"]) part[name].box.checked = now.options[name];
    if (document.activeElement !== part.name) part.name.value = now.style;
    const found = [...now.detectors.map((one) => [one.name, one.title]), ["", t("by the shape alone")]];
    lora.fill(part.detectors, JSON.stringify(found), () => found.map(([value, text]) => make("option", { value }, text)));
    mark(part.look, "data-new", now.unseen > 0);
  }

  function drawPlan() {
    const plan = now.plan, rules = now.rules;
    const low = rules.ratio / (1 + rules.tolerance), high = rules.ratio * (1 + rules.tolerance);
    const ratio = plan && plan.ratio ? plan.ratio : NaN;
    part.ratio.draw(ratio, low, high, [0, 2 * rules.ratio], `${ratio.toFixed(2)} : 1`, { low: low.toFixed(1), high: high.toFixed(1) });
    part.sum.draw(plan ? plan.total : NaN, rules.low, rules.high, SUMS, plan ? count(plan.total) : "", { low: count(rules.low), high: count(rules.high) });
    const head = [t("Class"), t("Pictures"), t("Repeats"), t("Uses")];
    const key = JSON.stringify([plan && plan.classes, now.options.repeats, lora.language.name]);
    if (!part.table.contains(document.activeElement) || part.table.dataset.names !== JSON.stringify(plan && plan.classes.map((one) => one.name))) {
      lora.fill(part.table, key, () => plan ? [make("thead", {}, make("tr", {}, ...head.map((text) => make("th", {}, text)))), make("tbody", {}, ...plan.classes.map(rowOf))] : []);
      part.table.dataset.names = JSON.stringify(plan && plan.classes.map((one) => one.name));
    } else for (const one of plan.classes) {
      const cells = [...part.table.querySelectorAll("tbody tr")].find((row) => row.dataset.name === one.name)?.children;
      if (cells) { say(cells[1], filesOf(one)); say(cells[3], count(one.uses)); }
    }
    const judged = plan ? plan.rules : [];
    lora.fill(part.rules, JSON.stringify(judged), () => judged.map((rule) => make("li", { "data-kept": String(rule.kept) }, message(rule.text))));
    const mends = plan && !now.options.repeats ? plan.mends : [];
    show(part.mends, mends.length > 0 || Boolean(now.options.repeats) || Boolean(now.problem));
    lora.fill(part.mends, JSON.stringify([mends, now.options.repeats, now.problem]), () => [
      now.problem && make("p", {}, message(now.problem)),
      now.options.repeats && own("div", "row", {}, make("span", {}, t("These repeats are your own.")), link(t("Reckon them again"), () => send({ repeats: null }))),
      mends.length > 0 && make("p", {}, make("b", {}, mends.length > 1 ? t("Any one of these mends it:") : t("This mends it:"))),
      mends.length > 0 && make("ul", {}, ...mends.slice(0, 5).map((text) => make("li", {}, message(text)))),
    ]);
    part.write.disabled = !plan || Boolean(now.problem);
    say(part.write, Object.keys(now.written).length ? t("Change the folders to this plan") : t("Write the folders"));
    say(part.what, !plan
      ? t("Nothing is sorted yet. Let classes be suggested, or choose pictures and press a number.")
      : t("Copies go into the project's image folder, with captions and masks. The pictures themselves stay where they are, and it can be undone."));
  }

  const filesOf = (one) => (one.files > one.pictures ? t("{count} + {more} copies", { count: one.pictures, more: one.files - one.pictures }) : count(one.files));

  function rowOf(one) {
    const repeats = number(one.repeats, { min: 1, max: 10000, "aria-label": `${t("Repeats")}, ${title(one.name)}` }, (value) => {
      if (!(value >= 1)) return;
      clearTimeout(typing);
      typing = setTimeout(() => {
        const chosen = Object.fromEntries([...part.table.querySelectorAll("tbody tr")].map((row) => [row.dataset.name, Math.max(1, Math.round(Number(row.querySelector("input").value) || 1))]));
        send({ repeats: chosen });
      }, 300);
    });
    return make("tr", { "data-name": one.name }, make("th", { title: one.folder }, title(one.name)), make("td", {}, filesOf(one)), make("td", {}, repeats), make("td", {}, count(one.uses)));
  }
  let typing = 0;

  plans.add("style", {
    title: /* t */ "A style", hint: /* t */ "Sort the pictures into classes. The smallest repeats that keep a style in balance are reckoned as you do.",
    build, draw, task, forget: () => { part = null; },
  });
})();
