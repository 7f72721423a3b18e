// Planning the folders of a set: the frame of the planners of a style and of a person and of the sets that the
// checkpoint draws, which are in files of their own, and what these share.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.plans) return;
  const { t, message, find, make, say, show, mark } = lora;
  const KEPT = "train-lora-plan";
  const kinds = new Map(); // name -> {title, hint, build(element), draw(project, changed), task(task)}
  const mine = ["set", "base-style", "style-look", "style-write"];
  let part = null, shown = "", project = null, opening = "", looked = "", tasks = "", timer = 0;

  // Small pieces

  const own = (tag, name, more, ...children) => make(tag, { ...more, class: `train-lora-pl-${name}` }, ...children);
  const button = (text, act, more = {}) => make("button", { type: "button", class: "train-lora-button", onclick: act, ...more }, text);
  const link = (text, act, more = {}) => make("button", { type: "button", class: "train-lora-link", onclick: act, ...more }, text);
  const asItIs = (text, more = {}) => make("span", { "data-as-it-is": true, ...more }, text);
  const field = (text, child, hint) => make("label", { class: "train-lora-pl-field" }, make("span", {}, text), child, hint && make("small", {}, hint));

  function number(value, more, changed) {
    const box = make("input", { type: "number", inputmode: "numeric", value, ...more });
    if (changed) box.addEventListener("input", () => changed(box.value === "" ? null : Number(box.value)));
    return box;
  }

  function tick(text, on, changed, hint) {
    const box = make("input", { type: "checkbox", checked: on, onchange: () => changed(box.checked) });
    return { box, label: make("label", { class: "train-lora-pl-tick", title: hint || null }, box, make("span", {}, text)) };
  }

  function choice(options, first, label, changed) {
    return make("select", { "aria-label": label, onchange: (event) => changed && changed(event.target.value) },
      ...options.map(([value, text]) => make("option", { value, selected: value === first }, text)));
  }

  // Lines of problems in a box; none hides it.
  function tell(box, lines, kind = "error") {
    mark(box, "data-kind", kind);
    show(box, lines.length > 0);
    lora.fill(box, JSON.stringify([kind, lines]), () => lines.length === 1 ? [make("p", {}, lines[0])] : [make("ul", {}, ...lines.map((line) => make("li", {}, line)))]);
  }

  const box = () => make("div", { class: "train-lora-box", role: "status", hidden: true });

  // What a task is doing: {element, draw(task)}; stop is asked for by its button.
  function progress() {
    const bar = make("i"), words = make("span"), stop = button(t("Stop"), () => lora.post(`tasks/${now.id}/stop`).then(lora.look, () => {}));
    const element = own("task", "task", { hidden: true }, make("div", { class: "train-lora-bar", role: "progressbar", "aria-valuemin": "0" }, bar), words, stop);
    let now = null;
    return {
      element,
      draw(task, text) {
        now = task;
        const running = Boolean(task) && task.state === "running";
        show(element, running);
        if (!running) return;
        bar.style.width = task.total ? `${(100 * task.done) / task.total}%` : "0";
        mark(element.firstChild, "aria-valuemax", task.total || 1);
        mark(element.firstChild, "aria-valuenow", task.done);
        mark(element.firstChild, "data-unsure", !task.total);
        const rate = task.done > 1 ? task.seconds / task.done : 0;
        const left = rate && task.seconds > 5 ? " · " + t("{time} left", { time: lora.duration(rate * (task.total - task.done)) }) : "";
        say(words, text(task) + left);
      },
    };
  }

  // Start a task, after what is in its way. Problems are the caller's.
  async function start(path, body, told) {
    for (;;) {
      try {
        const answer = await lora.post(path, body);
        tell(told, []);
        lora.look();
        return answer;
      } catch (error) {
        const busy = error.status === 422 && Array.isArray(error.detail) && error.detail.find((one) => one.where === "under way");
        if (!busy) throw error;
        tell(told, [t("Waiting until this is done: {what}", { what: message(busy.what) })], "note");
        await new Promise((resolve) => setTimeout(resolve, 800));
      }
    }
  }

  // The form

  const input = (id) => find(id)?.querySelector("input, textarea");
  const valueOf = (name) => (input(`train_lora_${name}`)?.value || "").trim();

  // Put values into the form's fields, of whatever kind: the server knows how each is filled.
  function take(values) {
    const holder = input("train_lora_plan_values"), press = find("train_lora_plan_take");
    if (!holder || !press) return;
    const kind = holder.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(holder, JSON.stringify(values));
    holder.dispatchEvent(new Event("input", { bubbles: true }));
    setTimeout(() => (press.tagName === "BUTTON" ? press : press.querySelector("button")).click(), 200);
    setTimeout(() => lora.fields?.sync?.(), 1200);
  }

  // The project: that of the step's own script, else the one that the folder of pictures belongs to

  // Where something was typed that isn't the open project's, that is meant.
  const folder = () => (lora.project && !lora.pictures?.state?.understood && lora.project.folder) || valueOf("train_data_dir");

  // {id, name}; make: make a project where there is none. Rejects as a request does.
  async function open(making) {
    const wanted = folder();
    if (!wanted) return null;
    if (project && project.asked === wanted) return project;
    if (lora.project?.id && lora.project.folder === wanted) return (project = { ...lora.project, asked: wanted });
    if (making && lora.pictures?.build) {
      await lora.pictures.build(wanted);
      if (lora.project?.id) return (project = { ...lora.project, asked: lora.project.folder });
    }
    if (!making) {
      const what = await lora.post("pictures/understand", { folder: wanted });
      if (what.project && lora.pictures?.open) throw { status: 422, closed: what.project, detail: [...what.said.map((line) => ({ what: line })), { what: t("A plan needs its project to be open") }] };
      if (!what.project) throw { status: 422, makeable: what.kind !== "parent", detail: [...what.said.map((line) => ({ what: line })), { what: t("A plan needs a project, which holds the folders that are made; your pictures stay where they are") }] };
    }
    const told = await lora.post(making ? "pictures/make" : "pictures/open", { folder: wanted });
    project = { ...told, asked: wanted };
    return project;
  }

  async function refresh(making = false) {
    if (!part || !shown) return;
    const wanted = folder(), asked = (opening = `${wanted} ${Date.now()}`);
    looked = wanted;
    try {
      const found = await open(making);
      if (opening !== asked) return;
      show(part.none, false);
      tell(part.problem, []);
      if (!found) {
        missing(t("Name the folder of your pictures above; the plan is made of what lies in it."), false);
        return;
      }
      show(part.body, true);
      kinds.get(shown).draw(found, true);
    } catch (error) {
      if (opening !== asked) return;
      project = null;
      missing(lora.problems(error).join(" "), Boolean(error.makeable), error.closed);
    }
  }

  // There is no open project: what is missing, and the button that makes one of the folder or opens the one that is closed.
  function missing(text, makeable, closed = null) {
    const kind = kinds.get(shown);
    show(part.body, Boolean(kind.alone));
    if (kind.alone) kind.draw(null, true);
    show(part.none, true);
    say(part.none.firstChild, text);
    show(part.none.children[1], makeable);
    const opening = part.none.lastChild;
    show(opening, Boolean(closed));
    if (closed) {
      say(opening, t("Open the project {name}", { name: closed.name }));
      opening.onclick = () => lora.pictures.open(closed.folder);
    }
  }

  // Folders were written or taken back: the step's other views show them anew.
  async function written() {
    if (!lora.project?.id || !lora.pictures?.changed) return;
    lora.pictures.state?.rows?.clear(); // what was moved isn't asked for under its former name
    try {
      await lora.pictures.changed(await lora.get(`pictures/${lora.project.id}`));
    } catch { /* they look again by themselves */ }
  }

  // The frame

  function build(element) {
    const put = (name, child) => ((made[name] = child), child), made = { panes: new Map(), tabs: new Map() };
    const order = ["style", "person", "sets"].filter((name) => kinds.has(name));
    element.replaceChildren(own("section", "frame", { "aria-labelledby": "train_lora_plan_title" },
      own("header", "head", {},
        make("h3", { id: "train_lora_plan_title" }, t("Plan the folders")),
        own("div", "tabs", { role: "group", "aria-label": t("Plan the folders") }, ...order.map((name) => {
          const tab = button(t(kinds.get(name).title), () => choose(shown === name ? "" : name), { "aria-pressed": "false", "data-plan": name });
          made.tabs.set(name, tab);
          return tab;
        }))),
      put("hint", make("p", { class: "train-lora-hint" })),
      put("none", make("div", { class: "train-lora-box", "data-kind": "note", hidden: true }, make("p", {}),
        button(t("Make a project of this folder"), () => refresh(true)), button("", null, { hidden: true }))),
      put("problem", box()),
      put("body", own("div", "body", { hidden: true }, ...order.map((name) => {
        const pane = own("div", "pane", { hidden: true, "data-plan": name });
        made.panes.set(name, pane);
        return pane;
      })))));
    return made;
  }

  function choose(name) {
    shown = kinds.has(name) ? name : "";
    try {
      sessionStorage.setItem(KEPT, shown);
    } catch { /* a page that may keep nothing */ }
    if (!part) return;
    for (const [key, tab] of part.tabs) mark(tab, "aria-pressed", key === shown);
    for (const [key, pane] of part.panes) show(pane, key === shown);
    say(part.hint, shown ? t(kinds.get(shown).hint) : t("How often each folder's pictures are used, reckoned for you; and sets that the checkpoint draws itself."));
    if (!shown) {
      show(part.body, false);
      show(part.none, false);
      return;
    }
    const pane = part.panes.get(shown);
    if (!pane.firstChild) kinds.get(shown).build(pane);
    refresh();
  }

  function draw(status, element) {
    const before = part;
    part = lora.once(element, build);
    if (part !== before) {
      for (const kind of kinds.values()) kind.forget?.();
      let kept = shown;
      try {
        kept = kept || sessionStorage.getItem(KEPT) || "";
      } catch { /* a page that may keep nothing */ }
      choose(kept);
    }
    const known = (status.tasks || []).filter((task) => mine.includes(task.kind));
    const key = JSON.stringify(known.map((task) => [task.id, task.state, task.done]));
    if (key !== tasks) {
      tasks = key;
      for (const task of [...known].reverse()) for (const [name, kind] of kinds) if (part.panes.get(name).firstChild) kind.task?.(task);
    }
    if (shown && looked !== folder()) refresh();
    clearTimeout(timer);
    if (known.some((task) => task.state === "running")) timer = setTimeout(lora.look, 1000);
  }

  lora.plans = {
    own, button, link, asItIs, field, number, tick, choice, tell, box, progress, valueOf, take, refresh, choose, open, written, start,
    project: () => project, again: () => ((project = null), refresh()),
    add: (name, kind) => kinds.set(name, kind),
  };
  lora.register("plans", { id: "train_lora_plans_view", draw });
  let waiting = 0;
  document.addEventListener("input", (event) => {
    if (!event.target.closest?.("#train_lora_train_data_dir")) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => refresh(), 900);
  }, true);
  const listen = () => lora.onProject?.(() => lora.plans.again());
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", listen);
  else setTimeout(listen, 0);
})();
