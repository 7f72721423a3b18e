// The dialogs of the step Pictures: choosing a folder, cutting many pictures the same way, and one picture at large, whose
// boxes are dragged and whose mask is drawn.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || !lora.pictures || lora.pictures.edit) return;
  const { t, message, find, make, show, say, mark, fill, count } = lora;
  const { state, at, button, raw, checkbox } = lora.pictures;

  const SHAPES = ["1:1", "2:3", "3:2", "3:4", "4:3", "9:16", "16:9"];
  const SIDES = [0, 512, 768, 1024];
  const COLOURS = ["#f97316", "#2563eb", "#16a34a", "#c026d3", "#ca8a04", "#0891b2", "#dc2626", "#7c3aed"];
  const LEAST = 16; // pixels of a box's side
  const WAYS = {
    head: [/* t */ "Head", /* t */ "A square around the head, with some shoulder"],
    focal: [/* t */ "Where most is to be seen", /* t */ "Edges and varied tones, near the middle; faces too, where they can be found"],
    centre: [/* t */ "The middle", /* t */ "The largest part of that shape, in the middle"],
    split: [/* t */ "Split long ones", /* t */ "Several parts that overlap, where a picture is much longer than the shape"],
    parts: [/* t */ "Parts of a person", /* t */ "Face, clothes, shoes and body, each into a folder of its own"],
    whole: [/* t */ "All of it", /* t */ "Only the size, the transparency or the background change"],
  };
  const chosen = { shape: "1:1", side: 512, upscaler: "", alpha: "flat", background: "#ffffff", captions: true, cutout: false, shoulder: 0.6, every: false, way: "focal", brush: 40, soft: false, detector: "" };

  // Parts of dialogs

  function dialog(kind, title, ...parts) {
    const heading = make("b", {}, title);
    const close = make("button", { type: "button", class: "train-lora-dialog-close", title: t("Close (Esc)"), "aria-label": t("Close (Esc)"), onclick: () => box.close() }, "✕");
    const wrong = make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true });
    const body = make("div", { class: "train-lora-dialog-body" }, ...parts);
    const box = make("dialog", { class: `train-lora-studio-dialog train-lora-studio-${kind}`, "aria-label": title }, make("header", {}, heading, close), wrong, body);
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
    box.addEventListener("keydown", (event) => event.stopPropagation()); // a WebUI has keys of its own
    box.addEventListener("close", () => box.remove());
    (find("train_lora") || document.body).append(box);
    box.showModal();
    return { box, body, heading, wrong };
  }

  function complain(place, lines) {
    show(place, lines.length > 0);
    fill(place, JSON.stringify(lines), () => [make("ul", {}, ...lines.map((line) => make("li", {}, message(line))))]);
  }

  async function ask(place, path, body) {
    try {
      const answer = await lora.post(path, body || {});
      complain(place, []);
      return answer;
    } catch (error) {
      complain(place, lora.problems(error));
      return null;
    }
  }

  let radios = 0;

  // A row of choices of which one counts: [[value, words, hint]].
  function choice(title, options, value, act) {
    const name = `train_lora_choice_${radios += 1}`;
    return make("fieldset", { class: "train-lora-choice" }, make("legend", {}, title), make("div", {}, ...options.map(([one, words, hint, off]) => {
      const input = make("input", { type: "radio", name, value: one, disabled: off, onchange: () => act(one) });
      input.checked = one === value;
      return make("label", { title: hint || null, "data-off": String(Boolean(off)) }, input, make("span", {}, words));
    })));
  }

  function number(words, value, low, high, step, act) {
    const input = make("input", { type: "number", min: low, max: high, step, onchange: (event) => act(Number(event.target.value)) });
    input.value = value;
    return make("label", { class: "train-lora-labelled" }, make("span", {}, words), input);
  }

  function picked(words, options, value, act) {
    const input = make("select", { onchange: (event) => act(event.target.value) }, ...options.map(([one, text]) => make("option", { value: one, "data-as-it-is": true }, text)));
    input.value = value;
    return make("label", { class: "train-lora-labelled" }, make("span", {}, words), input);
  }

  // Folder of the results: <repeats>_<name>
  function into(begin, act) {
    const [, repeats, name] = /^(\d+)_(.*)$/s.exec(begin) || [null, "10", begin];
    const held = { repeats, name };
    const told = () => act(`${held.repeats}_${held.name.trim()}`);
    const first = make("input", { type: "number", min: 1, max: 10000, "aria-label": t("Repeats"), title: t("Repeats"), oninput: (event) => { held.repeats = event.target.value; told(); } });
    const second = make("input", { type: "text", "aria-label": t("Name"), list: names(), oninput: (event) => {
      const whole = /^(\d+)_(.+)$/s.exec(event.target.value); // a folder that is there was chosen
      if (whole) [first.value, second.value] = [held.repeats, held.name] = [whole[1], whole[2]];
      else held.name = event.target.value;
      told();
    } });
    [first.value, second.value] = [held.repeats, held.name];
    return make("span", { class: "train-lora-into", "data-as-it-is": true }, first, make("span", {}, "_"), second);
  }

  // The project's own folders, for the fields to offer
  function names() {
    const id = "train_lora_own_folders";
    const list = find(id) || make("datalist", { id });
    list.replaceChildren(...(state.told.concepts || []).filter((one) => !one.elsewhere && !one.is_reg).map((one) => make("option", { value: one.folder })));
    if (!list.isConnected) (find("train_lora") || document.body).append(list);
    return id;
  }

  function proposed(row) {
    const own = (state.told.concepts || []).find((one) => one.id === row?.folder);
    if (!own) return "10_cut";
    return `${own.repeats || 10}_${own.elsewhere ? own.name : `${own.name} cut`}`;
  }

  // What becomes of the pixels: size, upscaler, transparency
  function options(again) {
    const { upscalers = [] } = state.told;
    const place = make("div", { class: "train-lora-options" });
    const draw = () => {
      place.replaceChildren(
        choice(t("Shorter side"), SIDES.map((side) => [side, side ? String(side) : t("As it is"), side ? t("{side} pixels", { side }) : ""]), chosen.side, (side) => { chosen.side = side; draw(); again(); }),
        ...(chosen.side && upscalers.length > 1 ? [picked(t("Smaller ones are enlarged by"), upscalers.map((name) => [name === "Lanczos" ? "" : name, name]), chosen.upscaler, (name) => { chosen.upscaler = name; again(); })] : []),
        choice(t("Transparency"), [["flat", t("On a colour")], ["mask", t("As a mask"), t("On a colour, and what is opaque becomes the mask of the training")], ["keep", t("Keep it")]], chosen.alpha, (alpha) => { chosen.alpha = alpha; draw(); again(); }),
        ...(chosen.alpha === "keep" ? [] : [make("label", { class: "train-lora-labelled" }, make("span", {}, t("Colour")), colour(again))]),
        cutout(again),
        make("label", { class: "train-lora-check" }, checkbox(chosen.captions, (on) => { chosen.captions = on; }), make("span", {}, t("Copy the captions"))));
    };
    draw();
    return place;
  }

  // Background removal, or why it is off
  function cutout(again) {
    const box = checkbox(chosen.cutout && !state.told.no_remover, (on) => { chosen.cutout = on; again(); });
    box.disabled = Boolean(state.told.no_remover);
    return make("label", { class: "train-lora-check", title: state.told.no_remover || "" }, box, make("span", {}, t("Take the background away")));
  }

  function colour(again) {
    const input = make("input", { type: "color", onchange: (event) => { chosen.background = event.target.value; again(); } });
    input.value = chosen.background;
    return input;
  }

  const wanted = () => ({
    side: chosen.side || null, upscaler: chosen.side ? chosen.upscaler : "", alpha: chosen.alpha, background: chosen.background, captions: chosen.captions, cutout: chosen.cutout && !state.told.no_remover,
  });

  // Which detector looks for faces: a choice where there are several, else its name
  const detectors = () => state.told.detectors || [];
  const detector = () => detectors().find((one) => one.name === chosen.detector) || detectors()[0] || { name: "", title: "" };
  const faceFinder = (again = () => {}) => (detectors().length > 1
    ? picked(t("Faces found by"), detectors().map((one) => [one.name, one.title]), detector().name, (one) => { chosen.detector = one; again(); })
    : make("p", { class: "train-lora-hint" }, t("Faces found by: {detector}", { detector: detector().title })));
  const finds = (way) => `${t(WAYS[way][1])}. ${t("Faces found by: {detector}", { detector: detector().title })}`;
  const faced = (way) => ["head", "parts"].includes(way);

  // Choosing a folder of the server's: to open it, to use its pictures, or to make a project in it

  async function browse(purpose) {
    const titles = { choose: t("Choose a folder"), add: t("Add pictures from elsewhere"), new: t("New project") };
    const path = make("input", { type: "text", class: "train-lora-path", "data-as-it-is": true, "aria-label": t("Folder"), placeholder: "/path/to/pictures" });
    const list = make("ul", { class: "train-lora-browse" });
    const name = make("input", { type: "text", placeholder: t("Name of the project"), "aria-label": t("Name of the project") });
    const words = { choose: t("Choose this folder"), add: t("Use its pictures"), new: t("Make it here") };
    const hint = make("p", { class: "train-lora-hint" });
    const act = button(words[purpose], done, { class: "train-lora-button train-lora-primary" });
    const { box, wrong } = dialog("browse", titles[purpose], make("form", { class: "train-lora-path-row", onsubmit: (event) => { event.preventDefault(); go(path.value); } }, path, button(t("Go"), () => go(path.value))),
      list, hint, make("div", { class: "train-lora-foot" }, purpose === "new" ? name : null, act));
    let now = null;

    async function go(folder) {
      const found = await ask(wrong, "pictures/folders", { folder });
      if (!found) return;
      now = found;
      path.value = found.folder;
      say(hint, purpose === "new" ? t("The project's folder is made in this one, with image/, models/, log/ and reg/ in it.")
        : found.pictures ? t("{count} pictures lie in it.", { count: count(found.pictures) }) : t("No picture lies in it itself."));
      list.replaceChildren(...(found.above ? [entry("↑", t("one up"), found.above)] : []), ...found.folders.map((one) => entry("▸", raw(one.name), one.folder)));
    }

    const entry = (sign, words, folder) => make("li", {}, make("button", { type: "button", onclick: () => go(folder) }, make("i", {}, sign), words));

    async function done() {
      if (!now) return;
      if (purpose === "new") {
        if (!name.value.trim()) {
          complain(wrong, [t("Give the project a name.")]);
          name.focus();
          return;
        }
        box.close();
        lora.pictures.build(now.folder, name.value.trim());
      } else if (purpose === "add") {
        box.close();
        lora.pictures.add(now.folder);
      } else {
        box.close();
        const holder = find("train_lora_train_data_dir")?.querySelector("input, textarea");
        if (!holder) return;
        Object.getOwnPropertyDescriptor(Object.getPrototypeOf(holder), "value").set.call(holder, now.folder);
        holder.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }

    const begin = find("train_lora_train_data_dir")?.querySelector("input, textarea")?.value || "";
    await go(begin);
    if (!now) go("");
  }

  // Many pictures the same way

  function cutMany(ids) {
    const first = [...state.rows.values()].flat().find((one) => ids.includes(one.id));
    let folder = proposed(first);
    const ways = make("div", { class: "train-lora-options" });
    const act = button(t("Make the pictures"), start, { class: "train-lora-button train-lora-primary" });
    const draw = () => {
      const name = chosen.way;
      ways.replaceChildren(
        choice(t("Which part"), Object.entries(WAYS).map(([way, [words, hint]]) => [way, t(words), t(hint)]), name, (way) => { chosen.way = way; draw(); }),
        make("p", { class: "train-lora-hint" }, t(WAYS[name][1])),
        ...(["focal", "centre", "split"].includes(name) ? [choice(t("Shape"), SHAPES.map((one) => [one, one]), SHAPES.includes(chosen.shape) ? chosen.shape : "1:1", (one) => { chosen.shape = one; })] : []),
        ...(name === "head" ? [number(t("Shoulder, in heights of the face"), chosen.shoulder, 0, 3, 0.1, (value) => { chosen.shoulder = value; }),
          make("label", { class: "train-lora-check" }, checkbox(chosen.every, (on) => { chosen.every = on; }), make("span", {}, t("Every face, not only the largest")))] : []),
        ...(faced(name) ? [faceFinder()] : []),
        make("label", { class: "train-lora-labelled" }, make("span", {}, name === "parts" ? t("Into folders that begin with") : t("Into the folder")), into(folder, (value) => { folder = value; })));
    };
    draw();
    const { box, wrong } = dialog("many", ids.length === 1 ? t("Cut one picture") : t("Cut {count} pictures", { count: count(ids.length) }), ways, options(() => {}),
      make("div", { class: "train-lora-foot" }, make("small", { class: "train-lora-hint" }, t("The originals stay as they are. What is made can be undone.")), act));

    async function start() {
      const way = { name: chosen.way, shape: chosen.shape, shoulder: chosen.shoulder, every: chosen.every, detector: faced(chosen.way) ? detector().name : "" };
      act.disabled = true;
      const answer = await ask(wrong, at("/cut"), { pictures: ids, way, into: folder, options: wanted() });
      act.disabled = false;
      if (!answer) return;
      [state.task, state.outcome] = [answer.task, null];
      box.close();
      lora.look();
    }
  }

  // One picture

  async function edit(begin) {
    await lora.pictures.ready(begin); // the table may be read anew just now
    let index = begin, row = lora.pictures.row(index), tab = "cut", turn = 0;
    if (!row) return;
    const own = { boxes: [], active: -1, width: 0, height: 0, folder: proposed(row), dirty: false, made: 0 };
    const picture = make("img", { alt: "", draggable: "false" });
    const canvas = make("canvas", { class: "train-lora-brush", hidden: true });
    const layer = make("div", { class: "train-lora-boxes" });
    const ring = make("i", { class: "train-lora-ring", hidden: true });
    const stage = make("div", { class: "train-lora-stage-picture" }, picture, canvas, layer, ring);
    const frame = make("div", { class: "train-lora-stage-frame" }, stage);
    const side = make("div", { class: "train-lora-edit-side" });
    const previous = make("button", { type: "button", title: t("Previous picture (left arrow)"), "aria-label": t("Previous picture (left arrow)"), onclick: () => move(-1) }, "‹");
    const next = make("button", { type: "button", title: t("Next picture (right arrow)"), "aria-label": t("Next picture (right arrow)"), onclick: () => move(1) }, "›");
    const { box, heading, wrong } = dialog("edit", "", frame, side);
    const facts = make("small", {});
    heading.setAttribute("data-as-it-is", "");
    heading.after(facts);
    heading.before(previous, next);
    const observer = new ResizeObserver(() => fit());
    observer.observe(frame);
    box.addEventListener("close", () => { observer.disconnect(); if (own.dirty) lora.pictures.draw(); });
    box.addEventListener("keydown", keys);

    async function load() {
      turn += 1;
      const mine = turn;
      row = lora.pictures.row(index);
      if (!row) {
        await lora.pictures.ready(index);
        row = lora.pictures.row(index);
      }
      if (!row || mine !== turn) return;
      Object.assign(own, { boxes: [], active: -1, painted: false });
      if (!own.touched) own.folder = proposed(row);
      say(heading, row.name);
      picture.src = lora.pictures.thumbnail(row, 1280);
      [previous.disabled, next.disabled] = [index === 0, index >= lora.pictures.total() - 1];
      const found = await ask(wrong, at("/boxes"), { picture: row.id, way: { name: "whole" } });
      if (mine !== turn) return;
      [own.width, own.height] = found ? [found.width, found.height] : [0, 0];
      say(facts, found ? `${found.width} × ${found.height}` : "");
      if (found) addBox(largest(), false);
      fit();
      drawSide();
      if (tab === "mask") brushes();
    }

    async function move(by) {
      const to = index + by;
      if (to < 0 || to >= lora.pictures.total()) return;
      index = to;
      await load();
    }

    function keys(event) {
      const typing = event.target.closest("input, select, textarea");
      if (typing) return;
      const one = own.boxes[own.active];
      const step = event.shiftKey ? 10 : 1;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
      if (by && event.target.closest(".train-lora-cutbox") && one) {
        one.box = inside([one.box[0] + by[0], one.box[1] + by[1], one.box[2], one.box[3]]);
        place();
      } else if (event.key === "ArrowLeft") move(-1);
      else if (event.key === "ArrowRight") move(1);
      else if (event.key === "Delete" && one && tab === "cut") remove(own.active);
      else return;
      event.preventDefault();
    }

    // The picture as large as there is room, so that boxes and brush need no scrolling
    function fit() {
      if (!own.width) return;
      const factor = Math.min(frame.clientWidth / own.width, frame.clientHeight / own.height);
      stage.style.width = `${Math.floor(own.width * factor)}px`;
      stage.style.height = `${Math.floor(own.height * factor)}px`;
      place();
    }

    // Boxes, in pixels of the upright picture

    const aspect = () => {
      const [wide, high] = chosen.shape.split(":").map(Number);
      return wide && high ? wide / high : 0;
    };

    function largest() {
      const ratio = aspect() || own.width / own.height;
      const wide = Math.min(own.width, Math.round(own.height * ratio)), high = Math.min(own.height, Math.round(own.width / ratio));
      return [Math.floor((own.width - wide) / 2), Math.floor((own.height - high) / 2), wide, high];
    }

    const smaller = ([left, top, wide, high]) => [left + wide * 0.2, top + high * 0.2, wide * 0.6, high * 0.6];

    function inside([left, top, wide, high]) {
      const [w, h] = [Math.min(wide, own.width), Math.min(high, own.height)];
      return [Math.round(Math.min(Math.max(0, left), own.width - w)), Math.round(Math.min(Math.max(0, top), own.height - h)), Math.round(w), Math.round(h)];
    }

    function addBox(box, draw = true, suffix = "", folder = "") {
      own.boxes.push({ box: inside(box), suffix, folder: folder || own.folder });
      own.active = own.boxes.length - 1;
      if (draw) drawSide();
    }

    function remove(which) {
      own.boxes.splice(which, 1);
      own.active = Math.min(own.active, own.boxes.length - 1);
      drawSide();
    }

    function place() {
      show(layer, tab === "cut");
      show(canvas, tab === "mask");
      lora.list(layer, own.boxes.map((one, n) => n), (n) => n, boxElement);
      own.boxes.forEach((one, n) => {
        const element = layer.children[n], [left, top, wide, high] = one.box;
        element.style.cssText = `left:${(100 * left) / own.width}%;top:${(100 * top) / own.height}%;width:${(100 * wide) / own.width}%;height:${(100 * high) / own.height}%;--colour:${COLOURS[n % COLOURS.length]}`;
        mark(element, "data-active", n === own.active);
        say(element.lastChild, `${wide} × ${high}`);
      });
      for (const [n, one] of own.boxes.entries()) {
        const told = side.querySelector(`[data-box="${n}"] .train-lora-box-size`);
        if (told) say(told, `${one.box[2]} × ${one.box[3]}`);
      }
    }

    function boxElement(n) {
      const corners = ["nw", "ne", "sw", "se", "n", "s", "w", "e"].map((where) => make("i", { "data-where": where }));
      return make("div", { class: "train-lora-cutbox", tabindex: 0, "aria-label": t("Part {number}", { number: n + 1 }), onpointerdown: (event) => drag(event, n), onfocus: () => activate(n) }, ...corners, make("span", {}));
    }

    function activate(n) {
      if (own.active === n) return;
      own.active = n;
      place();
    }

    function drag(event, n) {
      event.preventDefault();
      event.stopPropagation();
      const element = layer.children[n], where = event.target.dataset.where || "", begun = [...own.boxes[n].box];
      activate(n);
      element.focus({ preventScroll: true });
      element.setPointerCapture(event.pointerId);
      const [x, y] = [event.clientX, event.clientY], scale = own.width / stage.clientWidth;
      const moved = (now) => {
        own.boxes[n].box = dragged(begun, where, (now.clientX - x) * scale, (now.clientY - y) * scale);
        place();
      };
      const ended = () => {
        element.removeEventListener("pointermove", moved);
        stale();
      };
      element.addEventListener("pointermove", moved);
      element.addEventListener("pointerup", ended, { once: true });
      element.addEventListener("pointercancel", ended, { once: true });
    }

    // A box whose corner or edge is moved: the opposite one stays, and so does the shape where one is chosen.
    function dragged([left, top, wide, high], where, dx, dy) {
      if (!where) return inside([left + dx, top + dy, wide, high]);
      const [west, north] = [where.includes("w"), where.includes("n")];
      const [east, south] = [where.includes("e"), where.includes("s")];
      const [right, bottom] = [left + wide, top + high];
      let w = wide + (east ? dx : west ? -dx : 0), h = high + (south ? dy : north ? -dy : 0);
      const [mostW, mostH] = [west ? right : own.width - left, north ? bottom : own.height - top];
      const ratio = aspect();
      if (ratio) {
        if (where.length === 1) [w, h] = east || west ? [w, w / ratio] : [h * ratio, h];
        else if (w / h > ratio) h = w / ratio;
        else w = h * ratio;
        const least = Math.max(LEAST, LEAST * ratio), most = Math.min(mostW, mostH * ratio);
        w = Math.min(Math.max(w, least), most);
        h = w / ratio;
      } else [w, h] = [Math.min(Math.max(w, LEAST), mostW), Math.min(Math.max(h, LEAST), mostH)];
      return inside([west ? right - w : left, north ? bottom - h : top, w, h]);
    }

    // On free ground a new box is drawn
    layer.addEventListener("pointerdown", (event) => {
      if (event.target !== layer || event.button) return;
      const scale = own.width / stage.clientWidth, around = stage.getBoundingClientRect();
      addBox([(event.clientX - around.left) * scale, (event.clientY - around.top) * scale, LEAST, LEAST]);
      const corner = layer.children[own.active].querySelector('[data-where="se"]');
      corner.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, pointerId: event.pointerId, clientX: event.clientX, clientY: event.clientY }));
    });

    async function propose(name) {
      const way = { name, shape: aspect() ? chosen.shape : "1:1", shoulder: chosen.shoulder, every: name === "head" && chosen.every, detector: faced(name) ? detector().name : "" };
      const found = await ask(wrong, at("/boxes"), { picture: row.id, way });
      if (!found) return;
      if (found.problems.length) complain(wrong, found.problems);
      if (!found.boxes.length) return;
      own.boxes = [];
      for (const one of found.boxes) addBox(one.box, false, one.suffix, name === "parts" ? `${own.folder} ${one.suffix}` : "");
      own.active = 0;
      drawSide();
    }

    // The column beside the picture

    function drawSide() {
      const tabs = make("div", { class: "train-lora-tabs", role: "tablist" }, ...[["cut", t("Cut")], ["mask", t("Mask")]].map(([name, words]) =>
        make("button", { type: "button", role: "tab", "aria-selected": String(tab === name), onclick: () => { tab = name; drawSide(); if (name === "mask") brushes(); } }, words)));
      side.replaceChildren(tabs, ...(tab === "cut" ? cutting() : masking()));
      place();
    }

    const preview = make("div", { class: "train-lora-preview", hidden: true });

    function stale() {
      show(preview, false);
    }

    function cutting() {
      stale();
      return [
        choice(t("Shape"), [["", t("Free")], ...SHAPES.map((one) => [one, one])], aspect() ? chosen.shape : "", (shape) => {
          chosen.shape = shape;
          const one = own.boxes[own.active];
          if (one && aspect()) one.box = shaped(one.box);
          stale();
          place();
        }),
        make("div", { class: "train-lora-buttons" },
          button(t("Head"), () => propose("head"), { title: finds("head") }),
          button(t("Where most is to be seen"), () => propose("focal"), { title: t(WAYS.focal[1]) }),
          button(t("Parts of a person"), () => propose("parts"), { title: finds("parts") }),
          button(t("Split"), () => propose("split"), { title: t(WAYS.split[1]) }),
          button(t("One more part"), () => addBox(smaller(largest())))),
        faceFinder(() => drawSide()),
        make("div", { class: "train-lora-boxlist" }, ...own.boxes.map(boxRow)),
        options(stale),
        preview,
        make("p", { class: "train-lora-hint train-lora-edit-said" }, t("Drag the box or its corners; draw another one on free ground. The original stays as it is.")),
        make("div", { class: "train-lora-foot" }, button(t("Look at it"), looked, { disabled: !own.boxes.length }),
          button(own.boxes.length === 1 ? t("Make the picture") : t("Make {count} pictures", { count: count(own.boxes.length) }), cut, { class: "train-lora-button train-lora-primary", disabled: !own.boxes.length })),
      ];
    }

    function shaped([left, top, wide, high]) {
      const ratio = aspect(), area = wide * high;
      let w = Math.min(own.width, Math.sqrt(area * ratio)), h = w / ratio;
      if (h > own.height) [w, h] = [own.height * ratio, own.height];
      return inside([left + (wide - w) / 2, top + (high - h) / 2, w, h]);
    }

    function boxRow(one, n) {
      const suffix = make("input", { type: "text", placeholder: t("word behind the name"), "aria-label": t("Word behind the name"), title: t("Put behind the file's name where several parts are made"), oninput: (event) => { one.suffix = event.target.value.trim(); } });
      suffix.value = one.suffix;
      return make("div", { class: "train-lora-boxrow", "data-box": n, style: `--colour:${COLOURS[n % COLOURS.length]}`, onfocusin: () => activate(n) },
        make("i", {}), into(one.folder, (folder) => { one.folder = folder; if (n === 0) [own.folder, own.touched] = [folder, true]; }), own.boxes.length > 1 ? suffix : null,
        make("span", { class: "train-lora-box-size" }, `${one.box[2]} × ${one.box[3]}`),
        make("button", { type: "button", title: t("Remove this part"), "aria-label": t("Remove this part"), onclick: () => remove(n) }, "✕"));
    }

    async function looked() {
      const one = own.boxes[own.active] || own.boxes[0];
      preview.replaceChildren(make("p", { class: "train-lora-hint" }, t("Drawing …")));
      show(preview, true);
      const found = await ask(wrong, at("/preview"), { picture: row.id, box: one.box, options: wanted() });
      if (!found) {
        stale();
        return;
      }
      const all = [["Lanczos", found.before], [found.before ? chosen.upscaler : t("Result"), found.after], [t("Mask"), found.mask]].filter(([, source]) => source);
      const figure = ([words, source]) => make("figure", {}, make("img", { src: source, alt: words }), make("figcaption", {}, words));
      const large = () => {
        const over = make("button", { type: "button", class: "train-lora-preview train-lora-preview-large", title: t("Click to go back"), onclick: () => over.remove() }, make("div", {}, ...all.map(figure)));
        frame.append(over);
      };
      const enlarged = found.factor > 1 ? t("{width} × {height}, enlarged {factor} times", { ...found, factor: Math.round(found.factor * 100) / 100 }) : t("{width} × {height}", found);
      preview.replaceChildren(make("button", { type: "button", title: t("Show them large"), onclick: large }, make("div", {}, ...all.map(figure))), make("p", { class: "train-lora-hint" }, enlarged));
      await Promise.all([...preview.querySelectorAll("img")].map((image) => image.decode().catch(() => null)));
      preview.scrollIntoView({ block: "nearest" }); // how high they are is known now
    }

    async function cut() {
      const cuts = own.boxes.map((one) => ({ picture: row.id, box: one.box, into: one.folder, suffix: one.suffix }));
      const answer = await ask(wrong, at("/cut"), { cuts, options: wanted() });
      if (!answer) return;
      [state.task, state.outcome] = [answer.task, null];
      lora.look();
      own.made += cuts.length;
      const said = side.querySelector(".train-lora-edit-said");
      if (said) say(said, t("It is being made. Go on with the next one, or close this."));
    }

    // The mask: white is learnt. It is drawn on a canvas of at most 1024 pixels; black parts are shown as a veil.

    function masking() {
      const size = make("input", { type: "range", min: 4, max: 200, "aria-label": t("Brush"), oninput: (event) => { chosen.brush = Number(event.target.value); } });
      size.value = chosen.brush;
      return [
        choice(t("Brush"), [["erase", t("Leave out"), t("Paints black: not learnt")], ["paint", t("Learn"), t("Paints white: learnt")]], own.brush || "erase", (one) => { own.brush = one; }),
        make("label", { class: "train-lora-labelled" }, make("span", {}, t("Size")), size),
        make("div", { class: "train-lora-buttons" },
          button(t("Learn all"), () => flood(255)), button(t("Leave all out"), () => flood(0)), button(t("Invert"), invert), button(t("One stroke back"), back)),
        make("div", { class: "train-lora-buttons" },
          button(t("From transparency"), () => made("alpha")),
          button(t("What is in front"), () => made("background"), { disabled: Boolean(state.told.no_remover), title: state.told.no_remover || t("By rembg, which this program has") })),
        make("p", { class: "train-lora-hint train-lora-edit-said" }, t("What is veiled in red isn't learnt. Masks count once “Train with the masks” is ticked.")),
        make("div", { class: "train-lora-foot" }, row.masked ? button(t("Take the mask away"), unmask) : null, button(t("Save the mask"), save, { class: "train-lora-button train-lora-primary" })),
      ];
    }

    const ink = document.createElement("canvas"); // the mask itself, grey
    const strokes = [];

    async function brushes() {
      const factor = Math.min(1, 1024 / Math.max(own.width, own.height));
      const [wide, high] = [own.width, own.height].map((length) => Math.max(1, Math.round(length * factor)));
      for (const one of [ink, canvas]) [one.width, one.height] = [wide, high];
      strokes.length = 0;
      const pen = ink.getContext("2d", { willReadFrequently: true });
      pen.fillStyle = "#fff";
      pen.fillRect(0, 0, wide, high);
      if (row.masked) {
        try {
          const held = await image(`${lora.API}${at(`/masks/${row.id}.png?v=${Date.now()}`)}`);
          pen.drawImage(held, 0, 0, wide, high);
        } catch { /* it was taken away meanwhile */ }
      }
      veil();
    }

    function image(source) {
      return new Promise((done, failed) => {
        const one = new Image();
        one.onload = () => done(one);
        one.onerror = failed;
        one.src = source;
      });
    }

    function veil() {
      const pen = ink.getContext("2d", { willReadFrequently: true }), { width, height } = ink;
      const grey = pen.getImageData(0, 0, width, height), shown = new ImageData(width, height);
      for (let n = 0; n < grey.data.length; n += 4) {
        [shown.data[n], shown.data[n + 1], shown.data[n + 2]] = [220, 38, 38];
        shown.data[n + 3] = ((255 - grey.data[n]) * 150) / 255;
      }
      canvas.getContext("2d").putImageData(shown, 0, 0);
    }

    function kept() {
      strokes.push(ink.getContext("2d").getImageData(0, 0, ink.width, ink.height));
      if (strokes.length > 12) strokes.shift();
    }

    function back() {
      const former = strokes.pop();
      if (former) ink.getContext("2d").putImageData(former, 0, 0);
      veil();
    }

    function flood(grey) {
      kept();
      const pen = ink.getContext("2d");
      pen.fillStyle = `rgb(${grey},${grey},${grey})`;
      pen.fillRect(0, 0, ink.width, ink.height);
      veil();
    }

    function invert() {
      kept();
      const pen = ink.getContext("2d"), held = pen.getImageData(0, 0, ink.width, ink.height);
      for (let n = 0; n < held.data.length; n += 4) for (const band of [0, 1, 2]) held.data[n + band] = 255 - held.data[n + band];
      pen.putImageData(held, 0, 0);
      veil();
    }

    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      kept();
      const pen = ink.getContext("2d"), around = canvas.getBoundingClientRect(), scale = ink.width / around.width;
      const shown = canvas.getContext("2d"), learn = (own.brush || "erase") === "paint";
      const spot = (now) => [(now.clientX - around.left) * scale, (now.clientY - around.top) * scale];
      for (const one of [pen, shown]) Object.assign(one, { lineCap: "round", lineJoin: "round", lineWidth: chosen.brush * scale });
      pen.strokeStyle = learn ? "#fff" : "#000";
      shown.strokeStyle = "rgb(220,38,38)";
      shown.globalCompositeOperation = learn ? "destination-out" : "source-over";
      let from = spot(event);
      const line = (now) => {
        const to = spot(now);
        for (const one of [pen, shown]) {
          one.beginPath();
          one.moveTo(...from);
          one.lineTo(...to);
          one.stroke();
        }
        from = to;
      };
      line(event);
      const ended = () => {
        canvas.removeEventListener("pointermove", line);
        shown.globalCompositeOperation = "source-over";
        veil();
      };
      canvas.addEventListener("pointermove", line);
      canvas.addEventListener("pointerup", ended, { once: true });
      canvas.addEventListener("pointercancel", ended, { once: true });
    });
    canvas.addEventListener("pointermove", (event) => {
      const around = stage.getBoundingClientRect();
      ring.style.cssText = `left:${event.clientX - around.left}px;top:${event.clientY - around.top}px;width:${chosen.brush}px;height:${chosen.brush}px`;
      show(ring, true);
    });
    canvas.addEventListener("pointerleave", () => show(ring, false));

    async function save() {
      const png = ink.toDataURL("image/png");
      const answer = await ask(wrong, at(`/masks/${row.id}`), { png });
      if (answer) await saved(answer, true, t("The mask is saved."));
    }

    async function saved(answer, masked, words) {
      row.masked = masked;
      state.told = { ...answer, said: [] };
      own.dirty = true;
      drawSide();
      await brushes();
      const said = side.querySelector(".train-lora-edit-said");
      if (said) say(said, words);
    }

    async function unmask() {
      const answer = await ask(wrong, at("/unmask"), { pictures: [row.id] });
      if (answer) await saved(answer, false, t("The mask is taken away."));
    }

    async function made(way) {
      const answer = await ask(wrong, at("/masks"), { pictures: [row.id], way });
      if (!answer) return;
      const task = await over(answer.task);
      if (task && task.result && task.result.made) {
        try {
          await saved(await lora.get(at("")), true, t("The mask is made."));
        } catch (error) {
          complain(wrong, lora.problems(error));
        }
      } else if (task) complain(wrong, [...(task.error ? [task.error] : []), ...(task.warnings || [])]);
    }

    async function over(id) {
      for (let tries = 0; tries < 600 && box.isConnected; tries += 1) {
        await new Promise((done) => setTimeout(done, 250));
        const status = await lora.get("status");
        const task = (status.tasks || []).find((one) => one.id === id);
        if (!task || task.state !== "running") return task;
      }
      return null;
    }

    await load();
  }

  Object.assign(lora.pictures, { browse, cutMany, edit });
})();
