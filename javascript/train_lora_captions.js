// The writing of captions by a program: how far it is, what it did, and the way back by the studio's list of changes.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.captions) return;
  const { t, message, find, make, show, say, mark, fill, count } = lora;
  lora.captions = true;
  let seen = null;

  const button = (text, act) => make("button", { type: "button", class: "train-lora-button", onclick: act }, text);

  function build(element) {
    const part = {};
    const put = (name, child) => (part[name] = child);
    element.replaceChildren(make("section", { class: "train-lora-job" },
      make("header", {}, put("title", make("b", { class: "train-lora-state" })),
        make("span", { class: "train-lora-buttons" }, put("stop", button(t("Stop"), () => send(part, `tasks/${part.task.id}/stop`))))),
      put("bar", make("div", { class: "train-lora-bar", role: "progressbar", "aria-valuemin": "0" }, make("i"))),
      put("stage", make("p", { class: "train-lora-stage" })),
      put("keep", make("p", { class: "train-lora-hint", hidden: true })),
      put("error", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true })),
      put("warnings", make("div", { class: "train-lora-box", "data-kind": "warning", hidden: true })),
      put("undo", button(t("Put the former captions back"), () => undo(part)))));
    return part;
  }

  const TITLES = { running: /* t */ "Writing captions", done: /* t */ "Captions are written", failed: /* t */ "Writing captions failed", stopped: /* t */ "Writing captions was stopped" };

  function draw(status, element) {
    const task = (status.tasks || []).find((one) => one.kind === "captions");
    if (!task) return;
    const part = lora.once(element, build);
    const running = task.state === "running";
    if (seen === `${task.id} running` && !running) {
      const { trigger = "", kept = 0 } = task.result || {};
      part.first = trigger && !kept ? lora.captionStudio.keepFirst(trigger) : 0; // all captions begin with it
      readAgain();
    }
    seen = `${task.id} ${task.state}`;
    part.task = task;
    say(part.title, t(TITLES[task.state]));
    show(part.stop, running);
    show(part.bar, running);
    part.bar.firstChild.style.width = task.total ? `${(100 * task.done) / task.total}%` : "0";
    mark(part.bar, "aria-valuemax", task.total || 1);
    mark(part.bar, "aria-valuenow", task.done);
    const made = task.result;
    say(part.stage, made
      ? t("{written} written, {kept} kept, {same} the same as before", { written: count(made.written), kept: count(made.kept), same: count(made.same) })
      : t("{done} of {total} pictures", { done: count(task.done), total: count(task.total) }));
    show(part.keep, !running && part.first > 0);
    say(part.keep, part.first ? t("Keep tokens is {number} now, so that the trigger word stays in front.", { number: part.first }) : "");
    list(part.error, task.error ? [task.error] : []);
    list(part.warnings, task.warnings || []);
    show(part.undo, Boolean(made && made.entry) && part.undone !== task.id);
  }

  function list(box, lines) {
    show(box, lines.length > 0);
    fill(box, JSON.stringify(lines), () => [make("ul", {}, ...lines.map((line) => make("li", {}, message(line))))]);
  }

  async function send(part, path, body) {
    try {
      const answer = await lora.post(path, body);
      lora.look();
      return answer;
    } catch (error) {
      list(part.error, lora.problems(error));
      return null;
    }
  }

  async function undo(part) {
    const task = part.task;
    await lora.captionStudio.takeBack(task.result.entry);
    part.undone = task.id;
    show(part.undo, false);
  }

  // The studio's table, and what the step Pictures says of captions.
  function readAgain() {
    lora.captionStudio.again();
    const pictures = find("train_lora_read_pictures");
    if (pictures) (pictures.tagName === "BUTTON" ? pictures : pictures.querySelector("button")).click();
  }

  lora.register("captions", { id: "train_lora_captions_view", draw });
})();
