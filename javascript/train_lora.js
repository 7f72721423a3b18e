// What every script of the Train LoRA tab stands on: elements, requests, words, and looking at the server's status.
// A WebUI loads these files by name, this one first; the standalone app puts them into its page. All text goes in as
// text, never as HTML. A1111 tells all extensions of every node that comes or goes, so little comes and goes.
(() => {
  "use strict";
  if (window.trainLora) return;

  const API = "./lora-train/v1/"; // relative, so that it works below --subpath
  const STEPS = ["pictures", "captions", "training", "grid", "blocks"];
  const RUNNING = ["starting", "training", "pausing", "grid"];
  const [BUSY, QUIET, LONGEST, GIVEN_UP] = [1000, 4000, 30000, 20000]; // milliseconds: between two looks, and for an answer
  const views = new Map(), listeners = [];
  let timer = 0, asking = false, again = false, failures = 0, latest = null, complained = "", shown = "", followed = NaN; // followed: the job that was seen under way

  const page = () => (typeof gradioApp === "function" ? gradioApp() : document);
  const find = (id) => page().querySelector("#" + id);

  // Elements

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on") && typeof value === "function") element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  function say(element, text) {
    const only = element.childNodes.length === 1 && element.firstChild.nodeType === Node.TEXT_NODE ? element.firstChild : null;
    if (!only) element.textContent = text;
    else if (only.data !== text) only.data = text;
  }

  function show(element, visible) {
    if (element.hidden === Boolean(visible)) element.hidden = !visible;
  }

  function mark(element, name, value) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }

  function fill(element, key, build) {
    if (element.dataset.key === key) return;
    element.dataset.key = key;
    element.replaceChildren(...build().flat().filter(Boolean));
  }

  // One child for each item, known by its key: what stays isn't touched, so that nothing loses its place or the focus.
  function list(element, items, key, build) {
    const there = new Map([...element.children].map((child) => [child.dataset.key, child]));
    const wanted = items.map((item) => {
      const child = there.get(String(key(item))) || build(item);
      child.dataset.key = key(item);
      return child;
    });
    for (const child of [...element.children]) if (!wanted.includes(child)) child.remove();
    wanted.forEach((child, index) => { if (element.children[index] !== child) element.insertBefore(child, element.children[index] || null); });
  }

  // What `build` put into the element, {name: part}; built again where gradio has drawn the element anew.
  function once(element, build) {
    if (!element.trainLoraParts || !element.firstChild) element.trainLoraParts = build(element);
    return element.trainLoraParts;
  }

  // Into the clipboard; whether that was possible. `place` is an element that is shown.
  async function copy(text, place) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch { /* only pages of https and of this machine have a clipboard */ }
    const area = make("textarea", { readonly: true, class: "train-lora-grid-hidden" });
    area.value = text;
    place.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  // Words and numbers. Texts are whole sentences with {slots}; train_lora_language.js fills the language in.

  function slots(text, values) {
    return values ? text.replace(/\{(\w+)\}/g, (slot, name) => (name in values ? String(values[name]) : slot)) : text;
  }

  function t(text, values) {
    const known = trainLora.language.texts;
    return slots(Object.prototype.hasOwnProperty.call(known, text) ? known[text] : text, values);
  }

  // A server's message, also one put together from several: train_lora_language.js knows its parts.
  function message(text) {
    return trainLora.language.message(String(text));
  }

  function useLanguage(language) {
    trainLora.language = { texts: {}, message: (text) => text, ...language };
    for (const [, view] of views) {
      const element = find(view.id);
      if (!element) continue;
      delete element.trainLoraParts;
      delete element.dataset.key;
    }
    if (latest) draw(latest);
  }

  function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
    const two = (number) => String(number).padStart(2, "0");
    return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
  }

  const count = (number) => Number(number).toLocaleString("en-US");

  // Requests: a promise of the answer's JSON; rejects with {status, detail}, status 0 where no server answers

  // Where scripts need a password and the page does not, the page shows who it is by a cookie that it was given.
  function showCookie() {
    const given = find("train_lora_cookie");
    if (!given || shown === given.dataset.cookie) return;
    shown = given.dataset.cookie;
    if (shown) document.cookie = shown + "; path=/; SameSite=Strict";
  }

  async function ask(path, options) {
    showCookie();
    const giveUp = new AbortController();
    const clock = setTimeout(() => giveUp.abort(), options.method ? 6 * GIVEN_UP : GIVEN_UP);
    let answer;
    try {
      answer = await fetch(API + path, { ...options, signal: giveUp.signal });
      const body = await answer.text();
      const json = body ? JSON.parse(body) : null;
      if (answer.ok) return json;
      throw { status: answer.status, detail: json && json.detail !== undefined ? json.detail : json };
    } catch (error) {
      if (error && "detail" in error) throw error;
      throw { status: answer && !answer.ok ? answer.status : 0, detail: String((error && error.message) || error) };
    } finally {
      clearTimeout(clock);
    }
  }

  const get = (path) => ask(path, { headers: { Accept: "application/json" } });
  const post = (path, body = {}) =>
    ask(path, { method: "POST", headers: { Accept: "application/json", "Content-Type": "application/json" }, body: JSON.stringify(body) });

  // The lines of a refusal, for people.
  function problems(error) {
    if (error.status === 401) return [t("You are logged out. Reload the page and log in again.")];
    if (!error.status) return [t("The server doesn't answer.")];
    const details = Array.isArray(error.detail) ? error.detail : [error.detail];
    return details.map((one) => {
      if (!one || typeof one !== "object") return message(one || t("The server answers with error {status}.", { status: error.status }));
      const told = [one.what || one.msg, one.remedy].filter(Boolean).map((part) => `${part.replace(/\.$/, "")}.`).join(" ");
      return one.where && typeof one.where === "string" ? `${one.where}: ${message(told)}` : message(told);
    });
  }

  // Views: {id, draw(status, element)} is drawn after each look where an element has this id

  function register(name, view) {
    views.set(name, view);
    if (latest) drawOne(name, view);
  }

  function onStatus(listener) {
    listeners.push(listener);
    if (latest) safely("listener", () => listener(latest));
  }

  function safely(name, act) {
    try {
      act();
    } catch (error) { // one view's mistake must not stop the others
      const text = `Train LoRA, ${name}: ${(error && error.stack) || error}`;
      if (text !== complained) console.error(text);
      complained = text;
    }
  }

  function drawOne(name, view) {
    const element = find(view.id);
    if (element) safely(name, () => view.draw(latest, element));
  }

  const running = (job) => RUNNING.includes(job.state);

  function draw(status) {
    const root = find("train_lora");
    if (root) {
      mark(root, "data-state", status.state);
      mark(root, "data-running", running(status));
      if (running(status) || status.state === "paused") followed = status.id;
      mark(root, "data-live", status.id === followed ? "first" : "");
      if (status.packages) mark(root, "data-packages", status.packages.state);
    }
    for (const [name, view] of views) drawOne(name, view);
  }

  // Go to one of the STEPS; whether it was found. lasting: this is where people want to be.
  function step(name, lasting = true) {
    const tabs = find("train_lora_steps"), place = STEPS.indexOf(name);
    const all = (selector) => (tabs ? [...tabs.querySelectorAll(selector)] : []);
    const shown = all(".tab-nav > button, [role=tablist] > button, .overflow-dropdown > button"); // gradio moves what has no room
    const label = all(".visually-hidden > button")[place];
    const moved = label && shown.find((one) => one.textContent.trim() === label.textContent.trim());
    const button = find(`train_lora_step_${name}-button`) || moved || shown[place];
    if (button) button.click();
    if (button && lasting) opened = name;
    return Boolean(button);
  }

  // The step that was opened while our own scripts, or gradio 6, still built the page: it is opened again.
  let opened = "";

  function shownStep() {
    return STEPS.find((name) => (find(`train_lora_step_${name}`)?.getClientRects().length || 0) > 0) || "";
  }

  function remember(event) {
    const way = event.target.closest("#train_lora [data-step]"), tab = event.target.closest("#train_lora_steps button[role=tab]");
    if (way) step(way.dataset.step);
    if (!way && tab && event.isTrusted) opened = STEPS.find((name) => tab.id.startsWith(`train_lora_step_${name}`)) || "";
  }

  function keepStep() {
    if (opened && shownStep() && shownStep() !== opened) step(opened);
  }

  // Looking. A hidden page isn't looked for at all, nor a tab of the WebUI that isn't shown.

  function later(milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(look, milliseconds);
  }

  function visible() {
    const root = find("train_lora");
    return Boolean(root) && root.getClientRects().length > 0;
  }

  async function look() {
    clearTimeout(timer);
    if (asking) {
      again = true;
      return;
    }
    if (document.hidden) return; // visibilitychange looks again
    if (!visible()) {
      later(BUSY);
      return;
    }
    asking = true;
    let pause = QUIET;
    try {
      latest = await get("status");
      failures = 0;
      const busy = running(latest) || (latest.packages && ["checking", "installing"].includes(latest.packages.state));
      pause = busy ? BUSY : QUIET;
      draw(latest);
      for (const listener of listeners) safely("listener", () => listener(latest));
    } catch (error) {
      failures += 1;
      pause = Math.min(LONGEST, BUSY * 2 ** failures);
      complain(error);
    }
    if (!failures) complain(null);
    asking = false;
    later(again ? 50 : pause);
    again = false;
  }

  // One line at the top of our page while the server doesn't answer.
  function complain(error) {
    const root = find("train_lora");
    const line = root && root.querySelector(":scope > .train-lora-lost");
    if (!root || (!error && !line)) return;
    if (!error) {
      show(line, false);
      return;
    }
    if (failures < 2 && error.status !== 401) return; // one lost answer is nothing
    const text = error.status === 0
      ? t("The server doesn't answer. What was started goes on as long as the server runs; this page looks again by itself.")
      : problems(error).join(" ");
    const told = line || make("p", { class: "train-lora-lost", role: "status" }, text);
    if (!line) root.prepend(told);
    say(told, text);
    show(told, true);
  }

  function clicked(event) {
    const button = event.target.closest && event.target.closest("#train_lora button");
    if (!button) return;
    remember(event);
    [250, 1000].forEach((delay) => setTimeout(look, delay));
  }

  const trainLora = window.trainLora = {
    API, RUNNING, language: { texts: {}, message: (text) => text },
    page, find, make, copy, say, show, mark, fill, list, once, t, message, useLanguage, duration, count,
    get, post, problems, register, onStatus, running, step, keepStep, look, status: () => latest,
  };

  document.addEventListener("click", clicked, true);
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
  window.addEventListener("online", look);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", look);
  else look();
})();
