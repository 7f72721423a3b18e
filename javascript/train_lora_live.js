// The live view of a job: how far it is, its curves, previews, files, advice, and its buttons.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.showJob) return;
  const { t, message, make, say, show, mark, fill, count, duration } = lora;

  const GIB = 2 ** 30;
  const UNDER_WAY = [...lora.RUNNING, "queued", "paused"];
  const HELD_OUT = "var(--train-lora-held-out, #c026d3)", TRAIN = "var(--train-lora-train, #0d9488)", ACCENT = "var(--train-lora-accent, #ea580c)";
  const RATE_COLOURS = ["var(--train-lora-rate-1, #2563eb)", "var(--train-lora-rate-2, #b45309)", TRAIN, HELD_OUT];
  let chosen = null; // an earlier job that is shown in place of the present one

  const states = () => ({
    idle: t("Ready"), queued: t("Waiting"), starting: t("Starting"), training: t("Training"), pausing: t("Pausing"), paused: t("Paused"),
    grid: t("Drawing the grid"), done: t("Done"), stopped: t("Stopped"), failed: t("Failed"), interrupted: t("Interrupted"),
  });
  const stateName = (state) => states()[state] || state;
  const base = (path) => String(path).split(/[\\/]/).pop();
  const sentence = (text) => (/^[^:]{1,120}: /.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1)); // a name stays as it is
  const gib = (bytes) => (bytes / GIB).toFixed(bytes < 10 * GIB ? 2 : 1);

  // Made once

  function build(live) {
    const part = {};
    const put = (name, element) => (part[name] = element);
    const fact = (name, label) => make("div", {}, make("dt", {}, label), put(name, make("dd", {}, "–")), put(`${name}More`, make("dd", { class: "train-lora-more", hidden: true }, "")));
    const button = (name, text, title, verb) => put(name, make("button", {
      type: "button", class: `train-lora-button${verb === "resume" ? " train-lora-primary" : ""}`, "data-verb": verb, title, hidden: true, onclick: () => act(part, verb),
    }, text));
    live.replaceChildren(
      put("empty", make("div", { class: "train-lora-empty" }, make("b", {}, t("Nothing is running.")),
        make("span", {}, t("Progress, the loss curve, previews, the saved files and the grid will appear here.")))),
      put("earlier", make("div", { class: "train-lora-strip", hidden: true }, make("span", {}, t("You are looking at an earlier job.")),
        make("button", { type: "button", class: "train-lora-button", onclick: () => showJob(null) }, t("Back to the present one")))),
      put("job", make("section", { class: "train-lora-job", hidden: true },
        make("header", {}, put("state", make("b", { class: "train-lora-state" })), put("name", make("span", { class: "train-lora-name" })),
          make("span", { class: "train-lora-buttons" },
            button("pause", t("Pause"), t("Saves where the training is and ends its process; Resume goes on from there."), "pause"),
            button("resume", t("Resume"), t("Goes on where the job was left."), "resume"),
            button("stop", t("Stop"), t("Ends the job. What was saved stays."), "stop"))),
        put("ask", make("div", { class: "train-lora-box", "data-kind": "warning", hidden: true })),
        put("answer", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true })),
        put("bar", make("div", { class: "train-lora-bar", role: "progressbar", "aria-label": t("Progress"), "aria-valuemin": "0" }, make("i"))),
        put("stage", make("p", { class: "train-lora-stage" })),
        put("facts", make("dl", { class: "train-lora-facts" }, fact("epoch", t("Epoch")), fact("step", t("Step")), fact("speed", t("Speed")),
          fact("left", t("Time left")), fact("elapsed", t("Elapsed")), fact("loss", t("Loss, smoothed")), fact("memory", t("Memory")))),
        put("error", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true })),
        put("end", make("div", { class: "train-lora-box", "data-kind": "ok", hidden: true })),
        put("advice", make("div", { class: "train-lora-box", "data-kind": "advice", hidden: true })),
        put("warnings", make("div", { class: "train-lora-box", "data-kind": "warning", hidden: true })),
        put("chart", make("div", { class: "train-lora-chart", hidden: true })),
        put("previews", make("div", { class: "train-lora-previews", hidden: true }, make("b", {}, t("Previews")), make("div", { class: "train-lora-strip-of-pictures", tabindex: "0", role: "group", "aria-label": t("Previews by epoch") }))),
        put("grid", make("figure", { class: "train-lora-grid", hidden: true })),
        put("files", make("div", { class: "train-lora-files", hidden: true })),
        put("log", make("details", { class: "train-lora-log", hidden: true }, make("summary", {}, t("Last lines of the log")), put("lines", make("pre", {}, "")))))),
    );
    return part;
  }

  // What changes

  function draw(status, live) {
    const part = lora.once(live, build);
    if (chosen && chosen.id === status.id) chosen = null;
    const job = chosen || status;
    if (chosen && UNDER_WAY.includes(chosen.state)) look(chosen.id);
    show(part.earlier, Boolean(chosen));
    show(part.empty, job.state === "idle");
    show(part.job, job.state !== "idle");
    if (job.state !== "idle") drawJob(part, job);
  }

  function drawJob(part, job) {
    const running = lora.running(job), drawing = job.state === "grid";
    if (part.shown && part.shown.id !== job.id) [part.ask, part.answer].forEach((element) => show(element, false));
    part.shown = job;
    mark(part.job, "data-state", job.state);
    say(part.state, stateName(job.state));
    say(part.name, job.checkpoint ? t("{name} on {checkpoint}", { name: job.name, checkpoint: job.checkpoint }) : job.name);
    drawButtons(part, job);
    drawBar(part.bar, job, running);
    const stage = drawing && job.grid ? t("Drawing the grid, {done} of {total} pictures", { done: count(job.grid.done), total: count(job.grid.total) }) : message(job.stage || "");
    const obvious = job.state === "training" && job.step > 0 && job.stage === "training";
    say(part.stage, stage);
    show(part.stage, Boolean(stage) && (running || job.state === "queued") && !obvious);
    drawFacts(part, job);
    drawBox(part.error, job.error ? [job.error] : [], job.kind === "grid" ? t("The grid failed") : t("The job failed"));
    drawEnd(part.end, job);
    drawBox(part.advice, job.advice || [], t("Advice"));
    drawBox(part.warnings, [...(job.warnings || []), ...(job.grid && job.grid.error ? [job.grid.error] : [])], t("Good to know"));
    drawChart(part, job);
    lora.gallery(part.previews, job);
    drawGrid(part.grid, job);
    drawFiles(part.files, job);
    say(part.lines, (job.log || []).join("\n"));
    show(part.log, (job.log || []).length > 0);
  }

  function drawButtons(part, job) {
    const wait = job.state === "pausing" || Boolean(part.waiting);
    const training = job.kind !== "grid" && ["starting", "training", "pausing"].includes(job.state);
    show(part.pause, training);
    show(part.resume, job.state === "paused" || (!lora.running(job) && job.resumable && job.state !== "done"));
    show(part.stop, lora.running(job) || job.state === "paused");
    const disable = (button, off) => { if (button.disabled !== off) button.disabled = off; };
    [part.resume, part.stop].forEach((button) => disable(button, wait));
    disable(part.pause, wait || job.state === "starting");
    say(part.pause, job.state === "pausing" ? t("Pausing…") : t("Pause"));
  }

  function drawBar(bar, job, running) {
    const drawing = (job.state === "grid" || job.kind === "grid") && job.grid;
    const [done, total] = drawing ? [job.grid.done, job.grid.total] : [job.step, job.total];
    const percent = total > 0 ? Math.min(100, (100 * done) / total) : 0;
    mark(bar, "data-unsure", running && (!total || !done));
    mark(bar, "aria-valuemax", total || 1);
    mark(bar, "aria-valuenow", done || 0);
    mark(bar, "aria-valuetext", t("{percent} percent", { percent: Math.floor(percent) }));
    const width = `${percent}%`, epochs = !drawing && job.epochs > 1 && job.epochs <= 40 ? String(job.epochs) : "0";
    if (bar.firstChild.style.width !== width) bar.firstChild.style.width = width;
    if (bar.style.getPropertyValue("--epochs") !== epochs) bar.style.setProperty("--epochs", epochs);
    show(bar, total > 0 || running);
  }

  function drawFacts(part, job) {
    const going = job.state === "training" || job.state === "pausing";
    const fact = (name, value, more = "") => {
      show(part[name].parentElement, value !== null);
      if (value !== null) say(part[name], value);
      say(part[`${name}More`], more);
      show(part[`${name}More`], Boolean(more));
    };
    const of = (done, total) => t("{done} of {total}", { done: count(done), total: count(total) });
    const each = job.seconds_per_step || (job.eta && job.total > job.step ? job.eta / (job.total - job.step) : 0);
    const smoothed = job.smoothed && job.smoothed.length ? job.smoothed[job.smoothed.length - 1][1] : job.loss_average;
    show(part.facts, job.total > 0 || job.seconds > 0);
    fact("epoch", job.epochs ? of(job.epoch, job.epochs) : null);
    fact("step", job.total ? of(job.step, job.total) : null);
    fact("speed", each && job.step ? (each <= 1 ? t("{number} steps/s", { number: (1 / each).toPrecision(3) }) : t("{number} s a step", { number: each.toPrecision(3) })) : null);
    fact("left", going && typeof job.eta === "number" ? duration(job.eta) : null,
      going && typeof job.eta === "number" && job.eta > 600 ? t("until about {time}", { time: clock(Date.now() / 1000 + job.eta) }) : "");
    fact("elapsed", job.seconds ? duration(job.seconds) : null);
    fact("loss", typeof smoothed === "number" ? smoothed.toFixed(4) : null, typeof job.loss === "number" && going ? t("last step: {loss}", { loss: job.loss.toFixed(4) }) : "");
    fact("memory", ...memory(job, going));
  }

  function memory(job, going) {
    const now = going && job.memory_now, guess = job.estimate && job.estimate.memory;
    if (!now && !job.memory) return [null];
    const values = { number: gib(now || job.memory), peak: gib(job.memory || now), low: guess ? gib(guess[0]) : "", high: guess ? gib(guess[1]) : "" };
    const more = now ? (guess ? t("at most {peak}, estimated {low} to {high} GiB", values) : t("at most {peak} GiB", values))
      : guess ? t("at most; estimated {low} to {high} GiB", values) : t("at most");
    return [t("{number} GiB", values), more];
  }

  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

  function drawBox(element, lines, title) {
    show(element, lines.length > 0);
    fill(element, JSON.stringify(lines), () => (lines.length ? [make("b", {}, title), make("ul", {}, lines.map((line) => make("li", {}, sentence(message(line)))))] : []));
  }

  // When it has ended: what there is now, and where to go on.
  function drawEnd(element, job) {
    const ended = ["done", "stopped"].includes(job.state);
    show(element, ended);
    if (!ended) return;
    const files = job.files || [], grid = hasGrid(job);
    mark(element, "data-kind", job.state === "done" ? "ok" : "note");
    fill(element, JSON.stringify([job.id, job.state, files.length, job.band, grid, job.advice]), () => {
      const title = job.kind === "grid" ? (job.state === "done" ? t("The grid is drawn.") : t("The grid was stopped."))
        : job.state === "done" ? t("The training is done.") : t("The training was stopped at step {step} of {total}.", { step: count(job.step), total: count(job.total) });
      const saved = job.kind === "grid" ? "" : files.length === 1 ? t("1 LoRA file is saved in {folder}.", { folder: job.output_dir })
        : files.length ? t("{number} LoRA files are saved in {folder}.", { number: count(files.length), folder: job.output_dir }) : t("No LoRA file was saved.");
      const band = job.band && !(job.advice || []).length
        ? t("The candidates are epochs {first} to {last}: there the loss on held-out pictures was lowest. This is an estimate; choose by eye.", { first: job.band[0], last: job.band[1] }) : "";
      return [make("b", {}, title), ...[saved, band].filter(Boolean).map((line) => make("p", {}, line)),
        grid ? make("button", { type: "button", class: "train-lora-button train-lora-primary", onclick: () => toGrid(job) }, t("Look at the grid")) : null];
    });
  }

  const hasGrid = (job) => Boolean(job.grid && !lora.running(job) && (job.grid.path || (Array.isArray(job.grid.pages) ? job.grid.pages.length : job.grid.pages)));

  function toGrid(job) {
    if (lora.grids) lora.grids.show(job.id);
    if (!lora.step("grid")) window.open(sheet(job), "_blank", "noopener");
  }

  const sheet = (job) => `${lora.API}grids/${encodeURIComponent(job.id)}/pages/0/sheet.png`;

  function drawGrid(element, job) {
    const there = hasGrid(job);
    show(element, there);
    if (!there) return;
    fill(element, job.id, () => [
      make("figcaption", {}, make("b", {}, t("Grid")), " ", t("Every epoch at every weight. Click it to choose among its pictures.")),
      make("button", { type: "button", onclick: () => toGrid(job) }, make("img", { src: sheet(job), alt: t("The grid: every epoch at every weight") })),
    ]);
  }

  function drawFiles(element, job) {
    const epochs = new Map((job.epochs_saved || []).map(({ path, epoch }) => [path, epoch]));
    const saved = (job.files || []).map((path) => ({ path, epoch: epochs.get(path) }));
    show(element, saved.length > 0);
    if (!saved.length) return;
    const [first, last] = job.band || [0, -1];
    fill(element, JSON.stringify([saved.map(({ path }) => path), job.band]), () => [
      make("b", {}, saved.length === 1 ? t("1 saved file") : t("{number} saved files", { number: count(saved.length) })),
      make("ul", {}, saved.map(({ path, epoch }) => make("li", { title: path, class: epoch >= first && epoch <= last ? "train-lora-candidate" : null },
        base(path), epoch >= first && epoch <= last ? make("small", {}, ` ${t("candidate")}`) : null))),
      make("code", {}, job.output_dir || ""),
    ]);
  }

  // Curves

  function drawChart(part, job) {
    const losses = job.losses || [], drawn = losses.length > 0 || (job.validation || []).length > 0;
    show(part.chart, drawn);
    const key = JSON.stringify([job.id, job.step, losses.length, (job.validation || []).length, job.band]);
    if (!drawn || part.curves === key) return;
    part.curves = key;
    lora.chart(part.chart, curves(job));
  }

  function curves(job) {
    const each = job.steps_per_epoch, ends = [];
    for (let epoch = 1; each && epoch <= job.epochs; epoch += 1) {
      const end = Math.min(each * epoch, job.total);
      if (end <= job.step) ends.push(end);
    }
    const plots = [lossPlot(job), validationPlot(job), ratePlot(job)].filter(Boolean);
    return { label: t("Curves over the training steps. Arrow keys move along them."), perEpoch: each, ends, band: band(job, ends), plots };
  }

  function band(job, ends) {
    if (!job.band) return null;
    const [first, last] = job.band;
    const at = (epoch) => ((job.validation || []).find((one) => one.epoch === epoch) || {}).step ?? ends[epoch - 1];
    if (at(first) === undefined || at(last) === undefined) return null;
    const text = first === last ? t("candidate: epoch {first} (estimate)", { first }) : t("candidates: epochs {first} to {last} (estimate)", { first, last });
    return { from: at(first), to: at(last), text };
  }

  function lossPlot(job) {
    const smoothed = job.smoothed || [], losses = job.losses || [];
    if (!losses.length) return null;
    const [step, value] = smoothed.length ? smoothed[smoothed.length - 1] : losses[losses.length - 1];
    const lines = [{ name: t("each step"), kind: smoothed.length ? "faint" : "strong", colour: ACCENT, points: losses },
      { name: t("smoothed"), kind: "strong", colour: ACCENT, points: smoothed }];
    return { name: "loss", title: t("Loss"), label: t("Loss: {value} at step {step}, smoothed.", { value: lora.number(value), step: count(step) }), height: 190, format: lora.number, lines };
  }

  function validationPlot(job) {
    const points = (name) => (job.validation || []).filter((one) => typeof one[name] === "number").map((one) => [one.step, one[name]]);
    const lines = [{ name: t("held-out pictures"), kind: "solid", dots: true, colour: HELD_OUT, points: points("held_out") },
      { name: t("training pictures"), kind: "dashed", dots: true, colour: TRAIN, points: points("train") }];
    const measured = lines.filter((line) => line.points.length);
    if (!measured.length) return null;
    const label = measured.map((line) => t("{name}: {value} after step {step}.", {
      name: line.name, value: lora.number(line.points[line.points.length - 1][1]), step: count(line.points[line.points.length - 1][0]),
    })).join(" ");
    return { name: "validation", title: t("Validation loss"), label: `${label} ${job.band ? band(job, [])?.text || "" : ""}`.trim(), height: 130, format: lora.number, lines, band: true };
  }

  // Groups that learn alike are one line.
  function ratePlot(job) {
    const alike = new Map();
    for (const [name, points] of Object.entries(job.rates || {})) {
      const key = JSON.stringify(points);
      if (points.length) alike.set(key, [...(alike.get(key) || []), name]);
    }
    const all = [...alike].map(([points, names]) => ({ names, points: JSON.parse(points) }));
    if (!all.length) return null;
    const last = ({ points }) => points[points.length - 1][1];
    const shown = all.length <= 4 ? all : [...all].sort((a, b) => last(b) - last(a)).filter((_, index, sorted) => index < 2 || index >= sorted.length - 2);
    const lines = shown.map(({ names, points }, index) => ({ name: group(names), kind: ["solid", "dashed", "dotted", "dashed"][index], colour: RATE_COLOURS[index], points }));
    const label = lines.map((line) => t("{name}: {value}.", { name: line.name, value: lora.short(last(line)) })).join(" ");
    return { name: "rate", title: job.adaptive ? t("Learning rate in use (d × lr)") : t("Learning rate in use"), label, height: 70, format: lora.short, lines };
  }

  function group(names) {
    const known = { unet: t("UNet"), textencoder: t("text encoder"), text_encoder: t("text encoder"), textencoder2: t("second text encoder") };
    const named = names.map((name) => known[name] || name);
    return named.length <= 2 ? named.join(", ") : t("{name} and {number} more", { name: named[0], number: named.length - 1 });
  }

  // Buttons

  async function act(part, verb) {
    const job = part.shown;
    if (!job || part.waiting) return;
    if (verb === "stop" && job.kind !== "grid" && !(job.files || []).length && !(await sure(part.ask, t("Nothing has been saved yet. Stop all the same?"), t("Stop"), t("Go on training")))) return;
    part.waiting = verb;
    drawButtons(part, job);
    await send(`jobs/${encodeURIComponent(job.id)}/${verb}`, part.answer);
    part.waiting = null;
    if (chosen && chosen.id === job.id) await look(job.id);
    lora.look();
  }

  // A POST whose refusal is shown in `answer`; whether it was accepted.
  async function send(path, answer) {
    try {
      await lora.post(path);
      show(answer, false);
      return true;
    } catch (error) {
      answer.replaceChildren(make("ul", {}, lora.problems(error).map((line) => make("li", {}, line))));
      show(answer, true);
      return false;
    }
  }

  // A question in `box`; a promise of whether it was answered with yes.
  function sure(box, question, yes, no) {
    return new Promise((resolve) => {
      const close = (value) => () => { show(box, false); resolve(value); };
      const accept = make("button", { type: "button", class: "train-lora-button", onclick: close(true) }, yes);
      box.replaceChildren(make("p", {}, question), make("span", { class: "train-lora-buttons" }, accept,
        make("button", { type: "button", class: "train-lora-button", onclick: close(false) }, no)));
      show(box, true);
      accept.focus();
    });
  }

  // Show an earlier job by its id, or with null the present one.
  async function showJob(id) {
    chosen = null;
    if (id !== null) await look(id);
    redraw();
    const live = lora.find("train_lora_live");
    if (id !== null && live) live.scrollIntoView({ behavior: "smooth", block: "start" });
  }

  async function look(id) {
    try {
      const job = await lora.get(`jobs/${encodeURIComponent(id)}`);
      if (!lora.status() || lora.status().id !== id) chosen = job;
    } catch (error) {
      if (error.status === 404) chosen = null;
    }
  }

  function redraw() {
    const live = lora.find("train_lora_live");
    if (live && lora.status()) draw(lora.status(), live);
  }

  Object.assign(lora, { showJob, stateName, send, sure });
  lora.register("live", { id: "train_lora_live", draw });
})();
