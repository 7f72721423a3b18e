// Completes a tag that is being typed from the set's own tags: Down and Up choose, Tab or Enter take, Escape closes.
(() => {
  "use strict";
  const lora = window.trainLora;
  const studio = lora && lora.captionStudio;
  if (!studio || studio.ready) return;
  studio.ready = true;
  const { make, t } = lora;
  const MOST = 8;
  let numbers = 0;

  // The tag around the cursor: [begin, end, what of it stands before the cursor].
  function tagAt(field) {
    const place = field.selectionStart, text = field.value;
    const begin = Math.max(text.lastIndexOf(",", place - 1), text.lastIndexOf("\n", place - 1)) + 1;
    const ends = [text.indexOf(",", place), text.indexOf("\n", place)].filter((one) => one >= 0);
    return [begin, ends.length ? Math.min(...ends) : text.length, text.slice(begin, place)];
  }

  function fitting(field) {
    const [begin, end, typed] = tagAt(field);
    const wanted = studio.key(typed);
    if (!wanted) return [];
    const there = new Set((field.value.slice(0, begin) + field.value.slice(end)).split(/[,\n]/).map(studio.key));
    const found = studio.tags.filter(([tag]) => studio.key(tag).includes(wanted) && !there.has(studio.key(tag)) && studio.key(tag) !== wanted);
    const starts = (tag) => studio.key(tag).startsWith(wanted);
    return [...found.filter(([tag]) => starts(tag)), ...found.filter(([tag]) => !starts(tag))].slice(0, MOST);
  }

  function insert(field, tag) {
    const [begin, end] = tagAt(field);
    const rest = field.value.slice(end);
    const put = `${begin && field.value[begin - 1] === "," ? " " : ""}${tag}`;
    const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, field.value.slice(0, begin) + put + rest);
    field.setSelectionRange(begin + put.length, begin + put.length);
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function complete(field) {
    const id = `train_lora_words_${(numbers += 1)}`;
    let box = null, at = -1, found = [];

    function close() {
      if (box) box.remove();
      [box, at, found] = [null, -1, []];
      field.setAttribute("aria-expanded", "false");
      field.removeAttribute("aria-activedescendant");
    }

    function choose(place) {
      at = (place + found.length) % found.length;
      [...box.children].forEach((one, number) => one.setAttribute("aria-selected", String(number === at)));
      field.setAttribute("aria-activedescendant", `${id}_${at}`);
    }

    function take(tag) {
      insert(field, tag);
      close();
    }

    function open() {
      found = fitting(field);
      if (!found.length) {
        close();
        return;
      }
      const items = found.map(([tag, number], place) => make("div", {
        id: `${id}_${place}`, role: "option", "aria-selected": "false",
        onmousedown: (event) => { event.preventDefault(); take(tag); },
      }, make("span", {}, tag), make("small", {}, lora.count(number))));
      if (!box) {
        box = make("div", { id, class: "train-lora-cs-words", role: "listbox", "data-as-it-is": true, "aria-label": t("Tags of this set") });
        field.after(box);
      }
      box.style.left = `${field.offsetLeft}px`;
      box.style.top = `${field.offsetTop + field.offsetHeight}px`;
      at = -1;
      box.replaceChildren(...items);
      field.setAttribute("aria-expanded", "true");
    }

    field.setAttribute("role", "combobox");
    field.setAttribute("aria-autocomplete", "list");
    field.setAttribute("aria-controls", id);
    field.setAttribute("aria-expanded", "false");
    field.addEventListener("input", (event) => { if (event.isTrusted) open(); });
    field.addEventListener("blur", close);
    field.addEventListener("keydown", (event) => {
      if (!box || event.isComposing) return;
      if (event.key === "ArrowDown") choose(at + 1);
      else if (event.key === "ArrowUp") choose(at < 0 ? found.length - 1 : at - 1);
      else if (event.key === "Tab" && !event.shiftKey) take(found[Math.max(0, at)][0]);
      else if (event.key === "Enter" && at >= 0 && !event.ctrlKey) take(found[at][0]);
      else if (event.key === "Escape") close();
      else return;
      event.preventDefault();
      if (event.key === "Escape") event.stopImmediatePropagation();
    });
  }

  studio.complete = complete;
})();
