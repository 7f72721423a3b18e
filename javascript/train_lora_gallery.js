// Previews by epoch, and pictures at full size, alone or two side by side.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.lightbox) return;
  const { t, count, make, say, show, mark, list } = lora;

  // The pictures of a job's previews in order: {src, title, when, epoch, step, prompt}, prompt counted from 0.
  function pictures(job) {
    const all = [];
    for (const { epoch, step, paths } of job.previews || []) {
      const when = epoch ? t("Epoch {epoch}", { epoch: count(epoch) }) : t("Step {step}", { step: count(step) });
      paths.forEach((path, prompt) => all.push({
        src: `${lora.API}jobs/${encodeURIComponent(job.id)}/previews/${all.length}.png`, when, epoch, step, prompt,
        title: paths.length > 1 ? t("{when}, picture {number}", { when, number: prompt + 1 }) : when,
      }));
    }
    return all;
  }

  // The same prompt's picture before this one.
  const before = (all) => (index) => {
    for (let place = index - 1; place >= 0; place -= 1) if (all[place].prompt === all[index].prompt) return place;
    return null;
  };

  function gallery(element, job) {
    const all = pictures(job);
    show(element, all.length > 0);
    if (!all.length) return;
    const strip = element.lastElementChild;
    const groups = [];
    all.forEach((picture, index) => {
      const last = groups[groups.length - 1];
      if (last && last.title === picture.when && last.step === picture.step) last.shown.push(index);
      else groups.push({ key: `${job.id} ${picture.step} ${picture.when}`, title: picture.when, step: picture.step, shown: [index] });
    });
    for (const group of groups) group.key += ` ${group.shown.length}`;
    const atEnd = strip.scrollLeft + strip.clientWidth >= strip.scrollWidth - 20;
    list(strip, groups, (group) => group.key, (group) => make("figure", {},
      make("figcaption", { title: t("after step {step}", { step: count(group.step) }) }, group.title),
      ...group.shown.map((index) => make("button", {
        type: "button", title: t("Enlarge, and compare with the epoch before"),
        onclick: () => { const now = pictures(job); lightbox(now, index, before(now)); },
      }, make("img", { src: all[index].src, alt: t("Preview {number}, {when}", { number: all[index].prompt + 1, when: group.title }), loading: "lazy" })))));
    if (atEnd) strip.scrollLeft = strip.scrollWidth;
  }

  // Pictures at full size: items [{src, title}]; compare(index) gives the index of the picture to show beside, or null.
  function lightbox(items, start, compare = null) {
    let index = start, beside = false;
    const figure = () => make("figure", {}, make("figcaption"), make("img", { alt: "" }));
    const [left, right] = [figure(), figure()];
    const button = (text, title, act) => make("button", { type: "button", title, onclick: act }, text);
    const both = button(t("Compare with the epoch before"), t("Shows both side by side"), () => { beside = !beside; draw(); });
    const place = make("span", { class: "train-lora-place" });
    const previous = button("‹", t("Previous picture (left arrow)"), () => move(-1));
    const next = button("›", t("Next picture (right arrow)"), () => move(1));
    const dialog = make("dialog", { class: "train-lora-lightbox", "aria-label": t("Picture at full size") },
      make("header", {}, previous, place, next, both, button("✕", t("Close (Esc)"), () => dialog.close())),
      make("div", { class: "train-lora-both" }, left, right));
    const put = (element, item) => {
      say(element.firstChild, item.title);
      mark(element.lastChild, "src", item.src);
      mark(element.lastChild, "alt", item.title);
    };

    function draw() {
      const other = compare ? compare(index) : null;
      put(right, items[index]);
      show(left, beside && other !== null);
      if (beside && other !== null) put(left, items[other]);
      show(both, Boolean(compare));
      both.disabled = other === null;
      mark(both, "aria-pressed", beside);
      say(place, t("{number} of {all}", { number: count(index + 1), all: count(items.length) }));
      [previous.disabled, next.disabled] = [index === 0, index === items.length - 1];
    }

    function move(by) {
      index = Math.min(items.length - 1, Math.max(0, index + by));
      draw();
    }

    dialog.addEventListener("keydown", (event) => {
      event.stopPropagation(); // a WebUI has keys of its own
      if (event.key === "ArrowLeft") move(-1);
      else if (event.key === "ArrowRight") move(1);
      else return;
      event.preventDefault();
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => dialog.remove());
    (lora.find("train_lora") || document.body).append(dialog);
    draw();
    dialog.showModal();
    return dialog;
  }

  lora.gallery = gallery;
  lora.lightbox = lightbox;
})();
