// The queue and the earlier jobs: what waits, what was interrupted, what there was.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.queue) return;
  const { t, message, make, say, show, count } = lora;
  lora.queue = true;

  const FEW = 8;
  let jobs = [], known = "", asking = false;

  function build(element) {
    const part = {};
    const put = (name, child) => (part[name] = child);
    element.replaceChildren(
      put("answer", make("div", { class: "train-lora-box", "data-kind": "error", role: "alert", hidden: true })),
      put("ask", make("div", { class: "train-lora-box", "data-kind": "warning", hidden: true })),
      put("interrupted", make("div", { class: "train-lora-interrupted" })),
      put("waiting", make("section", { class: "train-lora-waiting", hidden: true },
        make("header", {}, put("title", make("b", {}, "")),
          put("go", make("button", { type: "button", class: "train-lora-button train-lora-primary", hidden: true, onclick: () => send(part, "queue/resume") }, t("Start the queue")))),
        put("why", make("p", { hidden: true }, t("These jobs waited when the program ended. They go on when you say so."))),
        put("queue", make("ol")))),
      put("past", make("details", { class: "train-lora-earlier", hidden: true }, put("pastTitle", make("summary", {}, "")),
        put("jobs", make("ul")),
        put("all", make("button", { type: "button", class: "train-lora-button", onclick: () => { part.showAll = true; drawPast(part, lora.status()); } }, t("Show all"))))),
    );
    return part;
  }

  function draw(status, element) {
    const part = lora.once(element, build);
    drawQueue(part, status);
    drawInterrupted(part, status);
    drawPast(part, status);
    const key = JSON.stringify([status.id, status.state, (status.queue || []).map((job) => [job.id, job.state])]);
    if (key !== known && !asking) refresh(part, key);
  }

  async function refresh(part, key) {
    asking = true;
    try {
      jobs = await lora.get("jobs");
      known = key;
      drawInterrupted(part, lora.status());
      drawPast(part, lora.status());
    } catch { /* the core says that the server doesn't answer; the next look asks again */ }
    asking = false;
  }

  const button = (text, title, onclick, more = "") => make("button", { type: "button", class: `train-lora-button ${more}`, title, onclick }, text);

  function drawQueue(part, status) {
    const waiting = (status.queue || []).filter((job) => job.state === "queued");
    show(part.waiting, waiting.length > 0);
    say(part.title, waiting.length === 1 ? t("1 job waits") : t("{number} jobs wait", { number: count(waiting.length) }));
    const left = waiting.some((job) => job.resumable); // by a program that has ended
    show(part.go, left);
    show(part.why, left);
    lora.list(part.queue, waiting, (job) => JSON.stringify([job.id, job.stage]), (job) => make("li", {},
      make("span", { class: "train-lora-words" }, make("b", {}, job.name), job.kind === "grid" ? ` ${t("(a grid)")}` : "", job.stage ? make("small", {}, message(job.stage)) : null),
      make("span", { class: "train-lora-buttons" },
        button(t("Show"), t("Look at this job"), () => lora.showJob(job.id)),
        button(t("Remove"), t("Take it from the queue"), () => remove(part, job)))));
  }

  // Those that can go on; what the live view shows has its button there.
  const toResume = (status) => jobs.filter((job) => ["interrupted", "paused"].includes(job.state) && job.resumable && job.id !== status.id);

  function drawInterrupted(part, status) {
    const waiting = toResume(status);
    lora.list(part.interrupted, waiting, (job) => JSON.stringify([job.id, job.state]), (job) => make("div", { class: "train-lora-box", "data-kind": "note" },
      make("p", {}, job.state === "paused" && !job.total ? t("{name} is paused.", { name: job.name }) : job.state === "paused"
        ? t("{name} is paused at step {step} of {total}.", { name: job.name, step: count(job.step), total: count(job.total) })
        : t("{name} was interrupted at step {step} of {total}. It can go on from where it was saved.", { name: job.name, step: count(job.step), total: count(job.total) })),
      make("span", { class: "train-lora-buttons" },
        button(t("Resume"), t("Goes on where the job was left."), () => resume(part, job), "train-lora-primary"),
        button(t("Show"), t("Look at this job"), () => lora.showJob(job.id)),
        button(t("Remove"), t("Take it from the list; LoRA files stay"), () => remove(part, job)))));
  }

  function drawPast(part, status) {
    const elsewhere = new Set([...(status.queue || []), ...toResume(status)].map((job) => job.id));
    const past = jobs.filter((job) => !elsewhere.has(job.id) && job.state !== "queued" && !(job.id === status.id && lora.running(status)));
    show(part.past, past.length > 0);
    say(part.pastTitle, t("Earlier jobs ({number})", { number: count(past.length) }));
    show(part.all, past.length > FEW && !part.showAll);
    lora.list(part.jobs, part.showAll ? past : past.slice(0, FEW), (job) => JSON.stringify([job.id, job.state, job.step]), (job) => earlier(part, job));
  }

  function earlier(part, job) {
    const when = new Date(job.began * 1000).toLocaleString(document.documentElement.lang || [], { dateStyle: "medium", timeStyle: "short" });
    const facts = [lora.stateName(job.state), when, job.total ? t("{step} of {total} steps", { step: count(job.step), total: count(job.total) }) : job.kind === "grid" ? t("a grid") : ""];
    const resumable = job.resumable && ["stopped", "failed", "interrupted", "paused"].includes(job.state);
    return make("li", { title: job.output_dir },
      make("span", { class: "train-lora-words" }, make("b", {}, job.name), make("small", {}, facts.filter(Boolean).join(" · "))),
      make("span", { class: "train-lora-buttons" },
        button(t("Show"), t("Look at this job"), () => lora.showJob(job.id)),
        resumable ? button(t("Resume"), t("Goes on where the job was left."), () => resume(part, job)) : null,
        button(t("Remove"), t("Take it from the list; LoRA files stay"), () => remove(part, job))));
  }

  const path = (job, verb) => `jobs/${encodeURIComponent(job.id)}/${verb}`;

  async function send(part, where) {
    const accepted = await lora.send(where, part.answer);
    known = "";
    lora.look();
    return accepted;
  }

  async function resume(part, job) {
    if (await send(part, path(job, "resume"))) lora.showJob(null);
  }

  async function remove(part, job) {
    const waits = job.state === "queued";
    const question = waits ? t("Take {name} from the queue?", { name: job.name })
      : t("Remove {name} from the list? Its curves, log and grid are deleted; its LoRA files stay.", { name: job.name });
    if (!(await lora.sure(part.ask, question, t("Remove"), t("Keep")))) return;
    if (await send(part, path(job, "remove"))) {
      jobs = jobs.filter((one) => one.id !== job.id);
      lora.showJob(null);
    }
  }

  lora.register("queue", { id: "train_lora_queue", draw });
})();
