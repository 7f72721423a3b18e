// The tab's languages. Python and the other scripts say everything in English; here it is translated where it stands:
// texts and hints inside #train_lora, as the WebUI's own localization does. What users wrote is left alone: fields, <pre>,
// <code>, and whatever is inside [data-as-it-is] or [data-raw].
//
// lora_train/ui/languages/CODE.json holds {"texts": {English: translation}, "patterns": {…}}; {0} or {name} in a key is any
// piece of text. Messages are looked up as a whole, then sentence by sentence, then as "where: message".
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.dictionary) return;

  const LANGUAGES = { en: "English", "zh-CN": "中文" };
  const STORED = "train_lora_language";
  const AS_IT_IS = "textarea, pre, code, script, style, [contenteditable=true], [data-raw], [data-as-it-is], .bilingual__trans_wrapper";
  const HINTS = ["placeholder", "title", "aria-label"];
  const [WEAK, MOST_KEPT, DEEPEST] = [8, 4000, 4]; // a pattern of fewer letters says little; remembered texts; slots in slots
  const SLOT = /\{(\w+)\}/g;
  const NUMBER = /^[-–+\d.,:e× %]*$/;
  const NAMED = /^[A-Za-z ]{4,}: \{\w+\}$/;
  const PIECE = /^( |, )/; // begins with what lies before it
  const SENTENCES = /(?<=[.!?…])\s+(?=\S)/;

  // A dictionary: translate(text) is the translation or null

  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const plain = (text) => text.replace(/([^.…])[.。]$/, "$1");
  const same = (text) => plain(text).replace(/^[A-Z](?![A-Z])/, (letter) => letter.toLowerCase());
  const filled = (text, values) => text.replace(SLOT, (slot, name) => (name in values ? values[name] : slot));
  const isChinese = (text) => /[\u4e00-\u9fff]/.test(text);

  // The end of a sentence as the text to translate has it.
  function ended(translation, text, key) {
    const [stops, stopped] = [/[^.…]\.$/.test(text), /[^.…]\.$/.test(key)];
    if (stops && !/[。！？….]$/.test(translation)) return `${translation}。`;
    return !stops && stopped ? translation.replace(/。$/, "") : translation;
  }

  function patternOf(key, translation) {
    const names = [], told = plain(key);
    let place = 0, source = "";
    for (const slot of told.matchAll(SLOT)) {
      source += `${escaped(told.slice(place, slot.index))}([^]*?)`;
      names.push(slot[1]);
      place = slot.index + slot[0].length;
    }
    source += escaped(told.slice(place));
    const said = told.replace(SLOT, "");
    const clue = told.split(/\{\w+\}/).map((part, index) => (index ? part : part.slice(1))).sort((a, b) => b.length - a.length)[0];
    const tail = / $/.test(told), head = PIECE.test(told); // a beginning or an end that something else is put to
    const ends = `${head ? "([^]*?)" : ""}${source.replace(/^[a-z]/i, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`)}${tail ? "([^]+)" : ""}`;
    return {
      key, clue, regex: new RegExp(`^${ends}[.]?$`), piece: head, letters: said.replace(/[^A-Za-z\u4e00-\u9fff]/g, "").length,
      names: [...(head ? [" head"] : []), ...names, ...(tail ? [" tail"] : [])], sentences: told.split(SENTENCES).length,
      write: (values) => `${head ? values[" head"] : ""}${filled(translation, values)}${tail ? values[" tail"] : ""}`,
    };
  }

  class Dictionary {
    constructor(pairs) {
      this.exact = new Map(pairs);
      this.alike = new Map();
      for (const [key, translation] of pairs) if (!this.alike.has(same(key))) this.alike.set(same(key), [key, translation]);
      this.patterns = pairs.filter(([key]) => key.search(SLOT) >= 0 || PIECE.test(key)).map(([key, translation]) => patternOf(key, translation))
        .filter((pattern) => pattern.letters).sort((a, b) => b.letters - a.letters);
      this.kept = new Map();
    }

    translate(text) {
      const whole = text.trim();
      if (!whole) return null;
      if (!this.kept.has(whole)) {
        if (this.kept.size >= MOST_KEPT) this.kept.clear();
        this.kept.set(whole, this.message(whole, 0));
      }
      const found = this.kept.get(whole);
      return found === null ? null : text.replace(whole, () => found);
    }

    message(text, depth) {
      return this.one(text, 0, depth) ?? this.several(text, depth) ?? this.placed(text, depth) ?? this.one(text, Infinity, depth);
    }

    // A text or a pattern. sentences: of a pattern; 0: as many as the text has, Infinity: any.
    one(text, sentences, depth) {
      if (this.exact.has(text)) return this.exact.get(text);
      const alike = this.alike.get(same(text));
      if (alike) return ended(alike[1], text, alike[0]);
      if (depth > DEEPEST) return null;
      const wanted = sentences || text.split(SENTENCES).length;
      for (const pattern of this.patterns) {
        if (wanted !== Infinity && pattern.sentences !== wanted) continue;
        if (pattern.piece && !depth) continue;
        const found = text.includes(pattern.clue) && text.match(pattern.regex);
        if (!found) continue;
        const slots = pattern.names.map((name, index) => [name, found[index + 1], this.slot(found[index + 1], depth + 1)]);
        const telling = pattern.letters >= WEAK || slots.some(([, , known]) => known !== null)
          || (pattern.piece && pattern.letters >= 4 && slots.length > 1 && !slots[0][1].includes(": ") && slots.slice(1).every(([, given]) => NUMBER.test(given)))
          || NAMED.test(pattern.key) || slots.every(([, given]) => NUMBER.test(given) || (pattern.letters >= 4 && !/\s/.test(given)));
        if (!telling) continue;
        return ended(pattern.write(Object.fromEntries(slots.map(([name, given, known]) => [name, known ?? given]))), text, "");
      }
      return null;
    }

    // What stands in a slot: a message or several in a list; single words are names.
    slot(text, depth) {
      if (!/[a-z] [a-z(]|^[\d,]+ (of [\d,]+ )?[a-z]+$/i.test(text) || depth > DEEPEST) return null;
      for (const [cut, joint] of [[/; /, "；"], [/, | or /, "、"]]) {
        const parts = text.split(cut);
        const translated = parts.length > 1 ? parts.map((part) => this.one(part, 0, DEEPEST)) : [null];
        if (translated.every((part) => part !== null)) return translated.join(joint);
      }
      return this.message(text, depth);
    }

    several(text, depth) {
      const sentences = text.split(SENTENCES);
      if (sentences.length < 2 || depth > DEEPEST) return null;
      let told = "", known = false;
      for (let at = 0; at < sentences.length;) {
        let found = null, many = sentences.length - at;
        for (; many > 0 && found === null; many -= 1) {
          const part = sentences.slice(at, at + many).join(" ");
          found = this.one(part, many, depth) ?? (many === 1 ? this.placed(part, depth) ?? this.one(part, Infinity, depth) : null);
        }
        known ||= found !== null;
        told += `${told && !/[。！？]$/.test(told) ? " " : ""}${found ?? sentences[at]}`;
        at += found === null ? 1 : many + 1;
      }
      return known ? told : null;
    }

    // "where: message" or "message: names".
    placed(text, depth) {
      const found = text.match(/^([^]{1,300}?): ([^]+)$/);
      if (!found || depth > DEEPEST) return null;
      const [, before, after] = found;
      const rest = this.message(after, depth + 1);
      if (rest !== null) return `${this.exact.get(before) ?? before}：${rest}`;
      const told = / /.test(before) ? this.one(before, 0, depth + 1) : null;
      return told === null ? null : `${told}：${after}`;
    }
  }

  // What stands in the page

  const texts = new WeakMap(), hints = new WeakMap(); // node → {english, shown}; element → {attribute: …}
  let chosen = "en", there = null, back = null, watched = null;

  // The WebUI's own localization translates whatever is the same as one of its words, also here: one word of a line of
  // buttons, a user's tag. What it did is taken back, unless it is in a language that we haven't got: that is all there is.
  const localized = () => {
    for (const any in window.localization || {}) return Boolean(any);
    return false;
  };
  const ours = () => chosen !== "en" || remembered() === "en";
  let words = null; // its translation → our English

  function unlocalized(now) {
    if (!localized() || !ours() || !there) return now;
    if (!words) {
      words = new Map();
      for (const [english, translation] of Object.entries(window.localization)) {
        if (!words.has(translation) || there.exact.has(english)) words.set(translation, english);
      }
    }
    const english = words.get(now.trim());
    return english === undefined ? now : now.replace(now.trim(), () => english);
  }

  // Whether the WebUI has just made `now` out of `before`.
  const localizedIt = (before, now) => Boolean(before) && localized() && before.trim() !== now && window.localization[before.trim()] === now;

  function takeBack(change) {
    const { target, oldValue: before, attributeName: name } = change;
    const now = name ? target.getAttribute(name) : target.data;
    const at = name ? target : target.parentElement;
    if (!at || !localizedIt(before, now) || !(ours() || at.closest(AS_IT_IS))) return;
    if (name) target.setAttribute(name, before);
    else target.data = before;
  }

  // What a place has to show instead of `now`, with what is known of it; null: nothing else.
  function instead(now, known, returning) {
    const english = known && known.shown === now ? known.english : unlocalized(now);
    if (chosen === "en") {
      const original = english !== now ? english : returning && back && isChinese(now) ? back.translate(now) : null;
      return original === null || original === now ? null : { english: original, shown: original };
    }
    if (!there || !/[A-Za-z]/.test(english)) return null;
    const shown = there.translate(english);
    return shown === null || shown === now ? null : { english, shown };
  }

  function showText(node, returning) {
    const next = instead(node.data, texts.get(node), returning);
    if (!next) return;
    texts.set(node, next);
    node.data = next.shown;
  }

  function showHints(element, returning) {
    for (const name of HINTS) {
      if (!element.hasAttribute(name)) continue;
      const known = hints.get(element) || {};
      const next = instead(element.getAttribute(name), known[name], returning);
      if (!next) continue;
      hints.set(element, { ...known, [name]: next });
      element.setAttribute(name, next.shown);
    }
  }

  function showAll(top, returning = false) {
    if (top.nodeType === Node.TEXT_NODE) {
      if (top.parentElement && !top.parentElement.closest(AS_IT_IS)) showText(top, returning);
      return;
    }
    if (top.nodeType !== Node.ELEMENT_NODE) return;
    const outside = top.parentElement && top.parentElement.closest(AS_IT_IS);
    if (outside) return;
    const walker = document.createTreeWalker(top, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT, {
      acceptNode: (node) => {
        if (node.nodeType === Node.TEXT_NODE) return NodeFilter.FILTER_ACCEPT;
        if (node.matches(AS_IT_IS)) {
          if (node.matches("textarea")) showHints(node, returning);
          return NodeFilter.FILTER_REJECT;
        }
        return NodeFilter.FILTER_ACCEPT;
      },
    });
    if (top.matches(AS_IT_IS)) {
      if (top.matches("textarea")) showHints(top, returning);
      return;
    }
    for (let node = walker.currentNode; node; node = walker.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) showText(node, returning);
      else showHints(node, returning);
    }
  }

  const observer = new MutationObserver((changes) => {
    for (const change of changes) if (change.type !== "childList") takeBack(change);
    for (const change of chosen === "en" && !(localized() && ours()) ? [] : changes) {
      if (change.type === "childList") for (const node of change.addedNodes) showAll(node);
      else if (change.type === "characterData") showAll(change.target);
      else if (!change.target.parentElement.closest(AS_IT_IS)) showHints(change.target);
    }
    observer.takeRecords(); // our own changes
  });

  function watch() {
    const root = lora.find("train_lora");
    if (!root || root === watched) return;
    observer.disconnect();
    observer.observe(root, { subtree: true, childList: true, characterData: true, characterDataOldValue: true, attributes: true, attributeOldValue: true, attributeFilter: HINTS });
    watched = root;
    root.setAttribute("lang", chosen);
    if (chosen !== "en" || (there && localized())) showAll(root);
  }

  // Which language

  async function use(language) {
    if ((language !== "en" || localized()) && !there) {
      const { texts: whole, patterns } = await lora.get(`language/${language === "en" ? "zh-CN" : language}`); // for the way back into English, too
      const pairs = [...Object.entries(whole), ...Object.entries(patterns)];
      there = new Dictionary(pairs);
      back = new Dictionary(pairs.map(([english, translation]) => [translation, english]));
      lora.dictionary.whole = whole;
    }
    const returning = chosen !== "en" && language === "en";
    chosen = language;
    const message = (text) => there.translate(text) ?? text;
    lora.useLanguage(language === "en" ? {} : { texts: lora.dictionary.whole, message });
    const root = lora.find("train_lora");
    if (!root) return;
    root.setAttribute("lang", language);
    showAll(root, returning);
    observer.takeRecords();
    draw();
  }

  function remembered() {
    try {
      const language = localStorage.getItem(STORED);
      return language in LANGUAGES ? language : null;
    } catch { // a browser that keeps nothing
      return null;
    }
  }

  function choose(language) {
    try {
      localStorage.setItem(STORED, language);
    } catch { /* it holds for this visit */ }
    use(language).catch(() => {});
  }

  // What the user chose here, else the WebUI's language, else the browser's.
  function wished(status) {
    const webui = String((window.opts && window.opts.localization) || "");
    if (/zh|chinese|中文|简|簡|繁/i.test(webui)) return "zh-CN";
    if (webui && webui !== "None") return /^en/i.test(webui) ? "en" : null;
    const host = status && status.host && status.host.language;
    return host in LANGUAGES ? host : /^zh/i.test(navigator.language) ? "zh-CN" : "en";
  }

  let decided = false;
  function decide(status) {
    watch();
    if (decided) return;
    decided = Boolean(status);
    const language = remembered() || wished(status) || "en";
    if (language !== chosen || (localized() && !there)) use(language).catch(() => { decided = false; });
  }

  // The switch in the head of the tab

  function draw() {
    const element = lora.find("train_lora_language");
    if (!element) return;
    if (!element.firstChild) {
      element.append(lora.make("div", { class: "train-lora-languages", role: "group", "aria-label": "Language · 语言", "data-as-it-is": true },
        Object.entries(LANGUAGES).map(([code, name]) =>
          lora.make("button", { type: "button", class: "train-lora-link", lang: code, "data-language": code, onclick: () => choose(code) }, name))));
    }
    for (const button of element.querySelectorAll("button")) lora.mark(button, "aria-pressed", button.dataset.language === chosen);
  }

  lora.dictionary = { Dictionary, use: choose, code: () => chosen, whole: {} };
  lora.register("language", { id: "train_lora_language", draw });
  lora.onStatus(decide);
  decide(null);
})();
