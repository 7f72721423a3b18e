// The fields of the Train LoRA tab: range and default below each, marks on what was changed, errors where they belong,
// the search for a setting, and the installation report.
(() => {
  "use strict";
  const core = window.trainLora;
  if (!core || core.fields) return;
  const { find, make, say, show, t } = core;
  let known = null, answered = "", opened = [];

  // What a field is: {label, name, section, low, high, default, first} by element id

  function fields() {
    const holder = find("train_lora_fields_data");
    if (!known && holder) known = JSON.parse(holder.dataset.fields);
    return known || {};
  }

  const box = (element) => element.querySelector("input, textarea");
  const number = (value) => String(value);

  function spoken(value) {
    if (typeof value === "boolean") return value ? t("on") : t("off");
    return value === "" || value === null ? t("empty") : String(value);
  }

  function range(field) {
    const values = { low: number(field.low), high: number(field.high), default: spoken(field.first) };
    if (field.low === null) return field.empty ? "" : t("default {default}", values);
    if (field.empty) return field.high >= 1e5 ? t("{low} or more", values) : t("{low} to {high}", values);
    if (field.high >= 1e5) return t("{low} or more, default {default}", values);
    return t("{low} to {high}, default {default}", values);
  }

  function decorate() {
    for (const [id, field] of Object.entries(fields())) {
      const element = find(id);
      const line = element && element.querySelector(":scope > .train-lora-range");
      if (!element) continue;
      if (line) {
        say(line.firstChild, range(field));
        continue;
      }
      const back = make("button", { type: "button", class: "train-lora-reset", hidden: true, onclick: () => reset(field.name) }, t("reset"));
      element.append(make("div", { class: "train-lora-range" }, make("span", { title: field.name }, range(field)), back));
    }
  }

  // What differs from what the field began with

  function changed(element, field) {
    const input = box(element);
    if (!input) return false;
    if (input.type === "checkbox") return input.checked !== field.first;
    if (typeof field.first === "number") return input.value === "" || Number(input.value) !== field.first;
    const [now, first] = [input.value, field.first].map((text) => (String(text).trim() === "" ? NaN : Number(text)));
    if (now === first) return false; // 0.0001 is 1e-4
    return ![field.first, t(String(field.first)), field.empty ? "" : field.first].map((one) => String(one).trim()).includes(input.value.trim());
  }

  function markChanges() {
    for (const [id, field] of Object.entries(fields())) {
      const element = find(id);
      const back = element && element.querySelector(":scope > .train-lora-range > .train-lora-reset");
      if (!back) continue;
      const differs = changed(element, field);
      element.classList.toggle("train-lora-changed", differs);
      show(back, differs);
      if (differs) {
        say(back, t("reset"));
        core.mark(back, "title", t("Back to {first}", { first: spoken(field.first) }));
      }
    }
    for (const fold of folds()) {
      const count = fold.querySelectorAll(".train-lora-changed").length;
      const label = opener(fold);
      if (!label) continue;
      const badge = label.querySelector(".train-lora-count") || label.insertBefore(make("span", { class: "train-lora-count" }), label.children[1] || null);
      say(badge, count ? t("{count} changed", { count }) : "");
      show(badge, count > 0);
    }
  }

  // The server puts the first value back: it knows how every kind of field is filled.
  function reset(name) {
    const holder = find("train_lora_reset_name");
    const input = holder && box(holder);
    const button = find("train_lora_reset");
    if (!input || !button) return;
    const kind = input.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(input, name);
    input.dispatchEvent(new Event("input", { bubbles: true }));
    setTimeout(() => (button.tagName === "BUTTON" ? button : button.querySelector("button")).click(), 150);
  }

  // Folds

  const folds = () => [...(find("train_lora") || document).querySelectorAll("#train_lora_more > *")].filter((fold) => fold.id.startsWith("train_lora_group_"));
  const opener = (fold) => fold.querySelector("button.label-wrap, .label-wrap");
  const isOpen = (fold) => Boolean(opener(fold) && opener(fold).classList.contains("open"));

  function openAround(element) {
    const around = [];
    for (let at = element.parentElement; at && at.id !== "train_lora"; at = at.parentElement) {
      const label = at.querySelector(":scope > .label-wrap");
      if (label && !label.classList.contains("open")) around.push(label);
    }
    around.reverse().forEach((label) => label.click());
  }

  function stepOf(element) {
    const step = element.closest('[id^="train_lora_step_"]');
    return step ? step.id.replace("train_lora_step_", "") : "";
  }

  function goTo(element) {
    core.step(stepOf(element));
    openAround(element);
    setTimeout(() => {
      element.scrollIntoView({ block: "center" });
      const input = box(element);
      if (input) input.focus();
    }, 250);
  }

  // Finding a setting: folds show only what fits, and what stands in front or in another step is named

  function search(words) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const more = find("train_lora_more");
    const elsewhere = [];
    if (!more) return;
    if (wanted.length && !opened.length) opened = folds().filter((fold) => !isOpen(fold)).map((fold) => fold.id);
    for (const [id, field] of Object.entries(fields())) {
      const element = find(id);
      if (!element) continue;
      const text = `${field.name} ${field.name.replaceAll("_", " ")} ${field.label} ${element.textContent}`.toLowerCase();
      const fits = wanted.every((word) => text.includes(word));
      if (more.contains(element)) element.classList.toggle("train-lora-away", !fits);
      else if (wanted.length && fits) elsewhere.push([element, field]);
    }
    for (const row of more.querySelectorAll(".form")) {
      const empty = [...row.children].every((one) => one.classList.contains("train-lora-away"));
      row.parentElement.classList.toggle("train-lora-away", empty);
    }
    let found = elsewhere.length;
    for (const fold of folds()) {
      const inside = [...fold.querySelectorAll(":scope [id^='train_lora_']")].filter((one) => one.id in fields());
      const fitting = inside.filter((one) => !one.classList.contains("train-lora-away"));
      found += fitting.length;
      fold.classList.toggle("train-lora-away", wanted.length > 0 && fitting.length === 0);
      const open = wanted.length ? fitting.length > 0 : isOpen(fold) && !opened.includes(fold.id);
      if (opener(fold) && isOpen(fold) !== open) opener(fold).click();
    }
    if (!wanted.length) opened = [];
    const place = find("train_lora_found");
    if (!place) return;
    place.replaceChildren(...elsewhere.map(([element, field]) =>
      make("button", { type: "button", class: "train-lora-link", onclick: () => goTo(element) }, t(field.label))));
    if (wanted.length && !found) place.append(make("p", { class: "train-lora-hint" }, t("No setting is called or described like this.")));
  }

  // Errors at their fields, until the field is changed or the server answers anew

  function markErrors() {
    const root = find("train_lora");
    if (!root) return;
    const items = [...root.querySelectorAll('.train-lora-box[data-kind="error"] li[data-field]')];
    const key = items.map((item) => item.dataset.field + item.textContent).join("\n");
    if (key === answered) return;
    answered = key;
    root.querySelectorAll(".train-lora-wrong").forEach(mended);
    for (const item of items) {
      const element = find(item.dataset.field);
      if (!element) continue;
      const text = [...item.querySelectorAll("span")].map((part) => part.textContent).join(" ");
      element.classList.add("train-lora-wrong");
      element.append(make("p", { class: "train-lora-error", role: "alert" }, text));
      item.classList.add("train-lora-link");
      item.tabIndex = 0;
    }
  }

  function mended(element) {
    element.classList.remove("train-lora-wrong");
    element.querySelectorAll(":scope > .train-lora-error").forEach((text) => text.remove());
  }

  // What the host has, in the fields that may be left empty

  function hint(id, text) {
    const element = find(id);
    const input = element && box(element);
    if (input && input.placeholder !== text) input.placeholder = text;
  }

  core.onStatus((status) => {
    const host = status.host || {};
    if (host.vae) hint("train_lora_vae", String(host.vae));
    if (host.clip_skip) hint("train_lora_clip_skip", String(host.clip_skip));
    if (host.checkpoint) hint("train_lora_pretrained_model_name_or_path", String(host.checkpoint));
    sync();
  });

  // The installation report

  async function report() {
    const place = find("train_lora_report");
    if (!place) return;
    place.replaceChildren(make("p", { class: "train-lora-hint" }, t("Looking …")));
    try {
      const answer = await fetch(core.API + "report");
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      const copy = make("button", { type: "button", class: "train-lora-plain", onclick: () => copied(copy, text) }, t("Copy"));
      place.replaceChildren(make("pre", { class: "train-lora-report" }, text), copy);
    } catch {
      place.replaceChildren(make("p", { class: "train-lora-hint" }, t("The server doesn't answer.")));
    }
  }

  async function copied(button, text) {
    try {
      await navigator.clipboard.writeText(text);
      say(button, t("Copied"));
    } catch { // without https a page may not write there: the text is selected instead
      getSelection().selectAllChildren(button.previousSibling);
    }
  }

  // Gradio 6 makes a step and a fold only when it is opened first. All are opened once, so that every field is there.
  async function mount() {
    const root = find("train_lora"), wait = () => new Promise((resolve) => setTimeout(resolve, 0));
    if (!root || !find("train_lora_steps")) {
      setTimeout(mount, 100);
      return;
    }
    if (!find("train_lora_recipe")) {
      root.dataset.mounting = "";
      for (const step of ["captions", "training", "grid", "blocks", "pictures"]) {
        core.step(step, false);
        await wait();
      }
      core.keepStep();
      const folded = [...root.querySelectorAll(".label-wrap:not(.open)")];
      folded.forEach((label) => label.click());
      await wait();
      folded.forEach((label) => label.click());
      delete root.dataset.mounting;
      core.keepStep();
      core.look();
    }
    sync();
  }

  // When to look: after what people do, and after each status

  function sync() {
    decorate();
    markChanges();
    markErrors();
  }

  const ours = (event) => event.target.closest && event.target.closest("#train_lora");

  document.addEventListener("input", (event) => {
    if (!ours(event)) return;
    const field = event.target.closest(".train-lora-wrong");
    if (field) mended(field);
    if (event.target.closest("#train_lora_find")) search(event.target.value);
    setTimeout(sync, 50);
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches?.("#train_lora li.train-lora-link")) event.target.click();
  });
  document.addEventListener("click", (event) => {
    if (!ours(event)) return;
    if (event.target.closest("#train_lora_check")) report();
    const told = event.target.closest('.train-lora-box[data-kind="error"] li[data-field]');
    const field = told && find(told.dataset.field);
    if (field) goTo(field);
    [100, 600, 1500].forEach((delay) => setTimeout(sync, delay));
  }, true);
  mount();
  core.fields = { sync, goTo, search };
})();
