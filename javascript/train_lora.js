// The live view of the Train LoRA tab, filled from lora-train/v1/status.
// A WebUI loads this file by itself; the standalone app puts it into its page. All text goes in as text, never as HTML.
(() => {
  "use strict";
  if (window.trainLora) return;

  const API = "./lora-train/v1/"; // relative, so that it works below --subpath
  const RUNNING = ["starting", "training", "grid"];
  const STATES = {
    idle: "Ready", starting: "Starting", training: "Training", grid: "Drawing the grid",
    done: "Done", stopped: "Stopped", failed: "Failed", interrupted: "Interrupted",
  };
  const [BUSY, QUIET, HIDDEN] = [1000, 4000, 15000]; // milliseconds between two looks
  const MOST_EARLIER = 10;
  let timer = 0, asking = false, again = false, failures = 0, chartOf = "", earlierOf = "", marked = "";

  const page = () => (typeof gradioApp === "function" ? gradioApp() : document);
  const find = (id) => page().querySelector("#" + id);

  // Elements

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function show(element, visible) {
    if (element.hidden === visible) element.hidden = !visible;
  }

  function fill(element, key, build) {
    if (element.dataset.key === key) return;
    element.dataset.key = key;
    element.replaceChildren(...build());
  }

  function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  }

  const count = (number) => Number(number).toLocaleString("en-US");
  const loss = (number) => (typeof number === "number" ? number.toFixed(4) : "–");
  const base = (path) => String(path).split(/[\\/]/).pop();

  // The live view: made once, then only what changes is touched

  function view() {
    const live = find("train_lora_live");
    if (!live) return null;
    if (live.view) return live.view;
    const part = {};
    const put = (name, element) => (part[name] = element);
    const fact = (name, label) => make("div", {}, make("dt", {}, label), put(name, make("dd", {}, "–")));
    live.replaceChildren(
      put("empty", make("div", { class: "train-lora-empty" },
        make("b", {}, "Nothing is running."),
        make("span", {}, "Progress, the loss curve, the saved files and the grid will appear here."))),
      put("job", make("section", { class: "train-lora-job", hidden: "" },
        make("header", {}, put("state", make("b", { class: "train-lora-state" })), put("name", make("span", { class: "train-lora-name" })),
          put("seconds", make("span", { class: "train-lora-seconds", title: "Time since the start" }))),
        put("bar", make("div", { class: "train-lora-bar", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0" }, make("i"))),
        put("stage", make("p", { class: "train-lora-stage" })),
        put("facts", make("dl", { class: "train-lora-facts" },
          fact("epoch", "Epoch"), fact("step", "Step"), fact("average", "Loss, averaged"), fact("left", "Time left"))),
        put("error", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert" })),
        put("warnings", make("div", { class: "train-lora-box", "data-kind": "warning" })),
        put("chart", make("div", { class: "train-lora-chart" })),
        put("grid", make("figure", { class: "train-lora-grid" })),
        put("files", make("div", { class: "train-lora-files" })),
        put("log", make("details", { class: "train-lora-log" }, make("summary", {}, "Last lines of the log"), put("lines", make("pre")))))),
      put("earlier", make("details", { class: "train-lora-earlier", hidden: "" },
        make("summary", {}, "Earlier trainings"), put("jobs", make("ul")))),
      put("lost", make("p", { class: "train-lora-lost", hidden: "" }, "The server doesn't answer. What was started goes on as long as the server runs.")),
    );
    live.view = part;
    return part;
  }

  function draw(status) {
    const part = view();
    const root = find("train_lora");
    if (!part || !root) return;
    const running = RUNNING.includes(status.state);
    if (root.dataset.state !== status.state) root.dataset.state = status.state;
    root.dataset.running = String(running);
    root.dataset.packages = status.packages.state;
    drawHost(status);
    drawPackages(status.packages);
    show(part.lost, false);
    show(part.empty, status.state === "idle");
    show(part.job, status.state !== "idle");
    if (status.state !== "idle") drawJob(part, status, running);
    drawEarlier(part, status, running);
  }

  function drawHost(status) {
    const element = find("train_lora_checkpoint");
    if (!element) return;
    const name = status.host.checkpoint;
    fill(element, String(name), () => name
      ? [make("span", {}, "Trains on and draws with "), make("b", {}, name), make("span", {}, ", the checkpoint that is chosen at the top of the page.")]
      : [make("span", {}, "No checkpoint is chosen. Choose one at the top of the page.")]);
  }

  function drawPackages(packages) {
    const element = find("train_lora_packages_text");
    if (!element || ["ready", "unknown", "checking"].includes(packages.state)) return;
    const installing = packages.state === "installing";
    const title = installing ? "Installing what training needs…" : "Training needs some packages first";
    const text = installing
      ? "A few minutes. They go into a folder of their own; the WebUI's packages stay as they are."
      : packages.message;
    fill(element, JSON.stringify(packages), () => [
      make("b", {}, title), make("p", {}, text),
      packages.lines.length ? make("pre", {}, packages.lines.join("\n")) : null,
    ].filter(Boolean));
  }

  function drawJob(part, status, running) {
    say(part.state, STATES[status.state] || status.state);
    say(part.name, [status.name, status.checkpoint && `on ${status.checkpoint}`].filter(Boolean).join(" "));
    say(part.seconds, duration(elapsed(status, running)));
    const grid = status.grid;
    const [done, total] = status.state === "grid" && grid ? [grid.done, grid.total] : [status.step, status.total];
    drawBar(part.bar, done, total, running);
    const stage = status.state === "grid" && grid ? `drawing the grid, ${count(grid.done)} of ${count(grid.total)} pictures` : status.stage;
    say(part.stage, running ? stage : "");
    show(part.stage, running && Boolean(stage) && !(stage === "training" && status.step));
    show(part.facts, status.total > 0);
    say(part.epoch, `${count(status.epoch)} of ${count(status.epochs)}`);
    say(part.step, `${count(status.step)} of ${count(status.total)}`);
    say(part.average, loss(status.loss_average));
    part.average.title = `loss of the last step: ${loss(status.loss)}`;
    say(part.left, status.state === "training" && typeof status.eta === "number" ? duration(status.eta) : "–");
    show(part.left.parentElement, status.state === "training");
    drawText(part.error, status.error ? [status.error] : [], "The training failed");
    drawText(part.warnings, status.warnings, "Good to know");
    drawChart(part.chart, status);
    drawGrid(part.grid, status);
    drawFiles(part.files, status);
    say(part.lines, status.log.join("\n"));
    show(part.log, status.log.length > 0);
  }

  function elapsed(status, running) {
    return running && status.began ? Math.max(status.seconds, Date.now() / 1000 - status.began) : status.seconds;
  }

  function drawBar(bar, done, total, running) {
    const known = total > 0;
    const unsure = String(running && (!known || done === 0));
    if (bar.dataset.unsure !== unsure) bar.dataset.unsure = unsure;
    bar.firstChild.style.width = known ? `${Math.min(100, (100 * done) / total)}%` : "0";
    bar.setAttribute("aria-valuemax", String(total || 1));
    bar.setAttribute("aria-valuenow", String(done || 0));
  }

  function drawText(element, lines, title) {
    show(element, lines.length > 0);
    fill(element, JSON.stringify(lines), () => [
      make("b", {}, title),
      make("ul", {}, ...lines.map((line) => make("li", {}, line))),
    ]);
  }

  function drawChart(element, status) {
    const key = `${status.id} ${status.losses.length} ${status.step}`;
    show(element, status.losses.length > 0);
    if (!status.losses.length || key === chartOf) return;
    chartOf = key;
    fetch(`${API}jobs/${encodeURIComponent(status.id)}/chart.svg`)
      .then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error(String(answer.status)))))
      .then((text) => {
        const svg = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
        if (svg.nodeName === "svg" && !svg.querySelector("script, foreignObject")) element.replaceChildren(document.importNode(svg, true));
      })
      .catch(() => { chartOf = ""; });
  }

  function drawGrid(element, status) {
    const path = status.grid && status.grid.path;
    show(element, Boolean(path));
    if (!path) return;
    fill(element, `${status.id} ${path}`, () => {
      const url = `${API}jobs/${encodeURIComponent(status.id)}/grid.png`;
      const picture = make("img", { src: url, alt: "The grid: every epoch at every weight" });
      return [
        make("figcaption", {}, make("b", {}, "Grid"), " – every epoch at every weight. Click it for its full size."),
        make("a", { href: url, target: "_blank", rel: "noopener" }, picture),
        make("code", {}, path),
      ];
    });
  }

  function drawFiles(element, status) {
    show(element, status.files.length > 0);
    fill(element, JSON.stringify([status.files, status.output_dir]), () => [
      make("b", {}, status.files.length === 1 ? "1 saved file" : `${count(status.files.length)} saved files`),
      make("ul", {}, ...status.files.map((file) => make("li", { title: file }, base(file)))),
      make("span", {}, "in "), make("code", {}, status.output_dir || ""),
    ]);
  }

  function drawEarlier(part, status, running) {
    const key = `${status.id} ${running}`;
    if (running || key === earlierOf) return;
    earlierOf = key;
    fetch(API + "history")
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(String(answer.status)))))
      .then((jobs) => {
        const others = jobs.filter((job) => job.id !== status.id).slice(0, MOST_EARLIER);
        show(part.earlier, others.length > 0);
        part.jobs.replaceChildren(...others.map(earlier));
      })
      .catch(() => { earlierOf = ""; });
  }

  function earlier(job) {
    const when = new Date(job.began * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const how = (STATES[job.state] || job.state).toLowerCase();
    const grid = job.grid && job.grid.path;
    const link = grid ? make("a", { href: `${API}jobs/${encodeURIComponent(job.id)}/grid.png`, target: "_blank", rel: "noopener" }, "grid") : null;
    return make("li", { title: job.output_dir }, make("b", {}, job.name),
      ` ${how} · ${when} · ${count(job.step)} of ${count(job.total)} steps`, link ? " · " : null, link);
  }

  // Fields that an error names are marked, until the next answer of the server

  function markFields() {
    const block = find("train_lora_errors");
    const ids = block ? [...block.querySelectorAll("[data-field]")].map((item) => item.dataset.field) : [];
    if (ids.join() === marked) return;
    marked = ids.join();
    page().querySelectorAll("#train_lora .train-lora-wrong").forEach((element) => element.classList.remove("train-lora-wrong"));
    ids.map(find).filter(Boolean).forEach((element) => element.classList.add("train-lora-wrong"));
  }

  // Looking

  function later(milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(look, milliseconds);
  }

  function visible() {
    const live = find("train_lora_live");
    return !document.hidden && Boolean(live) && live.getClientRects().length > 0;
  }

  async function look() {
    if (asking) {
      again = true;
      return;
    }
    if (!visible()) {
      later(document.hidden ? HIDDEN : BUSY); // a tab of the WebUI that isn't shown costs nothing
      return;
    }
    asking = true;
    let pause = QUIET;
    try {
      const answer = await fetch(API + "status", { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error(String(answer.status));
      const status = await answer.json();
      failures = 0;
      draw(status);
      const busy = RUNNING.includes(status.state) || ["checking", "installing"].includes(status.packages.state);
      pause = busy ? BUSY : QUIET;
    } catch (error) {
      failures += 1;
      if (failures > 1 && view()) show(view().lost, true);
    }
    asking = false;
    later(again ? 50 : pause);
    again = false;
  }

  function clicked(event) {
    const button = event.target.closest && event.target.closest("#train_lora button");
    if (button) [300, 900, 2000].forEach((delay) => setTimeout(look, delay));
  }

  function watch() {
    const block = find("train_lora_errors");
    if (!block) {
      setTimeout(watch, 500);
      return;
    }
    new MutationObserver(markFields).observe(block, { childList: true, subtree: true, characterData: true });
    look();
  }

  window.trainLora = { look };
  document.addEventListener("click", clicked, true);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", watch);
  else watch();
})();
