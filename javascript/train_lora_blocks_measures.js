// Measured help: what each block does to the picture and where, how large each LoRA is in it and whether two of them
// point the same way, and numbers tuned by the machine.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.measures) return;
  const { t, make, say, show, mark, fill, get, post, message, problems, duration } = lora;
  const { state, rules } = blocks;
  const [LOOK, REST] = [700, 200]; // milliseconds between two looks at a job; until numbers that rest are judged
  const BUSY = [...lora.RUNNING, "queued"];
  const jobs = { effects: null, tune: null }; // {id, state, progress, result, error}
  const looking = new Set();
  // pair: {names, norms, cosine, judged: by block, asked: the strengths that it is for}
  let pair = null, heated = null, resting = 0;

  const base = (id) => `blocks/measures/${encodeURIComponent(id)}`;
  const busy = (job) => Boolean(job) && BUSY.includes(job.state);

  async function start(kind, body) {
    jobs[kind] = { id: null, state: "queued" };
    blocks.redraw();
    try {
      const { id } = await post("blocks/measures", { kind, ...body });
      jobs[kind] = { id, state: "queued" };
      keep();
      look(kind);
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      jobs[kind] = { id: null, state: "failed", error: problems(error).join("\n") };
    }
    blocks.redraw();
  }

  async function look(kind) {
    const { id } = jobs[kind] || {};
    if (!id || looking.has(id)) return;
    looking.add(id);
    try {
      const told = await get(base(id));
      if (jobs[kind] && jobs[kind].id === id) jobs[kind] = told;
      if (kind === "tune" && told.state === "done") blocks.loadPresets().catch(blocks.complain);
    } catch (error) {
      if (error && error.status === 404) jobs[kind] = null;
      else if (error && error.detail === undefined) throw error;
    }
    looking.delete(id);
    if (busy(jobs[kind])) setTimeout(() => look(kind), LOOK);
    blocks.redraw();
  }

  const stop = (kind) => blocks.guarded(async () => { await post(`jobs/${encodeURIComponent(jobs[kind].id)}/stop`); look(kind); });

  function keep() {
    try {
      localStorage.setItem(`${blocks.PLACE}-measures`, JSON.stringify(Object.fromEntries(Object.entries(jobs).map(([kind, job]) => [kind, job && job.id]))));
    } catch { /* a browser that keeps nothing */ }
  }

  function recall() {
    try {
      const ids = JSON.parse(localStorage.getItem(`${blocks.PLACE}-measures`) || "{}");
      for (const [kind, id] of Object.entries(ids)) if (id && kind in jobs) { jobs[kind] = { id, state: "" }; look(kind); }
    } catch { /* nothing was kept */ }
  }

  // Effects: a number and a map for every block

  const effects = () => (jobs.effects && jobs.effects.state === "done" && jobs.effects.result) || null;
  // n: of one LoRA of the mix that was measured alone; null: of all of them together.
  function effectOf(block, n = null) {
    const found = effects();
    return found ? (n === null ? found.blocks : found.by_lora || []).find((one) => one.block === block && (n === null || one.lora === n)) : null;
  }

  function heat(block, n = null) {
    const one = block && effectOf(block, n), address = (file) => `${lora.API}${base(jobs.effects.id)}/maps/${encodeURIComponent(file)}`;
    heated = one && one.map ? one : null;
    const what = heated && n !== null ? `${blocks.stem(effects().mix[n].name)}, ${block}` : block;
    blocks.stage.heat(heated ? { over: address(one.map), under: address(effects().picture), block: what } : null);
  }

  // Those of the measured mix that were looked at alone and still stand here: [place in the measured mix, name].
  const alone = (found) => (found.mix || []).map(({ name }, n) => [n, name]).filter(([n, name]) => (found.by_lora || []).some((one) => one.lora === n) && state.mix.loras.some((one) => one.name === name));

  // Whether the numbers or the prompt are others than those that were measured.
  function outdated(found) {
    const standing = state.mix.loras.filter((one) => !one.hidden), columns = blocks.columns();
    return found.shot.prompt !== state.mix.shot.prompt || found.mix.some(({ name, te, unet, weights }) => {
      const one = standing.find((it) => it.name === name);
      return !one || one.te !== te || one.unet !== unet || columns.some((block) => one.weights[block] !== weights[block]);
    });
  }

  // Sizes and angles of the LoRA in front and another one

  async function compare() {
    const front = blocks.active(), others = state.mix.loras.filter((one) => one !== front && !one.hidden);
    const other = others.find((one) => one.unet * front.unet < 0) || others[0] || front; // one that is taken away, if any
    await judge([front.name, other.name]);
  }

  const present = (names) => names.map((name) => state.mix.loras.find((it) => it.name === name));

  // Strength times weight of every block, of each of the two.
  const factors = (names) => present(names).map((one) => Object.fromEntries(Object.keys(one.weights).map((block) => [block, strength(one, block)])));

  async function judge(names) {
    const weights = factors(names), two = names[0] !== names[1];
    const told = await blocks.guarded(() => post("blocks/compare", { names, ...(two ? { weights } : {}) }));
    if (told) pair = { names, norms: told.norms, cosine: told.cosine, judged: new Map(told.subtraction.map((one) => [one.block, one])), asked: JSON.stringify(weights) };
    blocks.redraw();
  }

  // The package judges the numbers once they rest; until then its last words stand.
  blocks.onChange(() => {
    clearTimeout(resting);
    resting = setTimeout(() => {
      if (!pair || pair.names[0] === pair.names[1] || !present(pair.names).every(Boolean) || JSON.stringify(factors(pair.names)) === pair.asked) return;
      judge(pair.names);
    }, REST);
  });

  const strength = (one, block) => (block === blocks.BASE ? one.te : one.unet) * one.weights[block];

  // Of both in one block: how large each is with its numbers, and the package's judgement of adding the second.
  function together(block) {
    const [one, other] = present(pair.names);
    if (!one || !other || !(block in pair.norms[0])) return null;
    const a = strength(one, block) * pair.norms[0][block], b = other === one ? 0 : strength(other, block) * (pair.norms[1][block] || 0);
    return { a: Math.abs(a), b: Math.abs(b), cosine: pair.cosine[block] || 0, left: null, best_weight: 0, verdict: "nothing", ...pair.judged.get(block) };
  }

  function words(block, it) {
    const share = it.left === null ? "" : `${Math.round(100 * it.left)} %`;
    return {
      nothing: t("{block}: one of the two is off here.", { block }),
      cancels: t("{block}: cancels; {share} of the first is left (cosine {cosine}).", { block, share, cosine: it.cosine.toFixed(2) }),
      little: t("{block}: takes a little away, {share} of the first is left (cosine {cosine}). A larger number takes more away.", { block, share, cosine: it.cosine.toFixed(2) }),
      beside: t("{block}: they have little in common here (cosine {cosine}); each acts on its own.", { block, cosine: it.cosine.toFixed(2) }),
      noise: t("{block}: they have little in common here (cosine {cosine}), so it mostly adds noise. Nearer to 0 may be better.", { block, cosine: it.cosine.toFixed(2) }),
      strengthens: t("{block}: the two add up here, {share} of the first (cosine {cosine}).", { block, share, cosine: it.cosine.toFixed(2) }),
    }[it.verdict];
  }

  // Rows of bars below the columns: [{label, cell(block) → {bars: [[share, colour]], title, text}}]
  function meters() {
    const rows = [], found = effects();
    if (found) {
      const most = Math.max(1e-9, ...found.blocks.map((one) => one.effect));
      const row = (key, label, colour, n, what) => ({
        key, label, over: (block) => heat(block, n),
        cell: (block) => {
          const one = effectOf(block, n), share = one && `${Math.round(100 * one.share)} %`;
          return one && { bars: [[Math.min(1, one.effect / most), colour]], lit: heated === one, title: one.was_off ? t("{block}: {share} of all, if it were at 1", { block: what(block), share }) : t("{block}: {share} of all that the LoRAs do to this picture", { block: what(block), share }) };
        },
      });
      rows.push(row("effect", t("Effect"), "var(--train-lora-accent)", null, (block) => block));
      for (const [n, name] of alone(found)) rows.push(row(`effect ${n}`, blocks.stem(name), blocks.colour(state.mix.loras.findIndex((one) => one.name === name)), n, (block) => `${blocks.stem(name)}, ${block}`));
    }
    if (pair && pair.names.every((name) => state.mix.loras.some((one) => one.name === name))) {
      const colours = pair.names.map((name) => blocks.colour(state.mix.loras.findIndex((one) => one.name === name)));
      const all = blocks.columns().map(together).filter(Boolean), most = Math.max(1e-9, ...all.flatMap((it) => [it.a, it.b])), single = pair.names[0] === pair.names[1];
      rows.push({ key: "size", label: t("Size"), cell: (block) => { const it = together(block); return it && { bars: single ? [[it.a / most, colours[0]]] : [[it.a / most, colours[0]], [it.b / most, colours[1]]], title: t("{block}: how much weight is changed", { block }) }; } });
      if (!single) rows.push({ key: "cosine", label: t("cos"), cell: (block) => { const it = together(block); return it && { text: it.cosine.toFixed(1).replace("-0.0", "0.0"), verdict: it.verdict, title: words(block, it) }; } });
    }
    return rows;
  }

  // The fold

  function progressLine() {
    const box = make("div", { class: "train-lora-blocks-progress", hidden: true }, make("span", { role: "status" }), make("div", { class: "train-lora-bar" }, make("i")));
    box.update = (job) => {
      show(box, busy(job));
      if (!busy(job)) return;
      const { step: done = 0, total = 0, stage = "", eta = null } = job;
      say(box.firstChild, job.state === "queued" ? t("Waiting for its turn …") : [message(stage || "") || t("Starting …"), total > 1 ? `${done} / ${total}` : "", eta ? t("{time} left", { time: duration(eta) }) : ""].filter(Boolean).join(" · "));
      mark(box.lastChild, "data-unsure", !total || !done);
      box.lastChild.firstChild.style.width = total ? `${(100 * done) / total}%` : "";
    };
    return box;
  }

  function section(title, hint) {
    const box = make("section", { class: "train-lora-blocks-box" }, make("b", {}, title), make("p", { class: "train-lora-hint" }, hint));
    box.go = blocks.button("", () => box.act(), { class: "train-lora-grid-button train-lora-grid-primary" });
    box.stop = blocks.button(t("Stop"), () => stop(box.kind));
    box.row = make("div", { class: "train-lora-blocks-set" }, box.go, box.stop);
    box.progress = progressLine();
    box.alarm = make("p", { class: "train-lora-grid-alarm", role: "alert" });
    box.result = make("div", {});
    return box;
  }

  function update(box, idle) {
    const job = jobs[box.kind];
    say(box.go, busy(job) ? (box.kind === "tune" ? t("Tuning …") : t("Measuring …")) : idle);
    box.go.disabled = busy(job);
    show(box.stop, busy(job) && Boolean(job.id));
    box.progress.update(job);
    const wrong = job && job.state === "failed" ? message(job.error || t("It failed.")) : "";
    say(box.alarm, wrong);
    show(box.alarm, Boolean(wrong));
  }

  function build() {
    const box = make("div", { class: "train-lora-blocks-measuring" });
    box.effects = section(t("What does each block do to this picture?"), t("Draws the picture once, then looks at three moments of it with and without each block: a bar below every column, and a map over the picture of where it acts. About as long as two or three pictures."));
    box.effects.kind = "effects";
    box.effects.each = make("label", { class: "train-lora-blocks-live" }, make("input", { type: "checkbox" }), t("Each LoRA on its own, too"));
    box.effects.act = () => start("effects", { mix: blocks.told(), each: !box.effects.each.hidden && box.effects.each.firstChild.checked });
    box.effects.row.append(box.effects.each);
    box.effects.first = make("p", { class: "train-lora-hint" }, t("Of the first prompt alone."));
    box.effects.append(box.effects.first, box.effects.row, box.effects.progress, box.effects.alarm, box.effects.result);
    box.pair = section(t("How large is each LoRA, and where do two of them cancel?"), t("Where a LoRA that is taken away points another way, taking it away cancels nothing and only adds noise: there its number is better near 0. Read from the files at once."));
    box.pair.act = compare;
    box.pair.append(box.pair.row, box.pair.result);
    box.tune = buildTune();
    box.append(box.effects, box.pair, box.tune);
    recall();
    return box;
  }

  function draw(box) {
    if (!blocks.opened("measures")) return;
    update(box.effects, effects() ? t("Measure again") : t("Measure"));
    show(box.effects.each, state.mix.loras.filter((one) => !one.hidden).length > 1);
    show(box.effects.first, (state.mix.shot.prompts || []).some((prompt) => prompt.trim()));
    const found = effects();
    fill(box.effects.result, found ? `${jobs.effects.id} ${JSON.stringify(alone(found))} ${outdated(found)}` : "", () => (found ? strongest(found) : []));
    say(box.pair.go, pair ? t("Compare again") : t("Compare"));
    show(box.pair.stop, false);
    fill(box.pair.result, JSON.stringify([pair && [pair.names, [...pair.judged.values()]], state.mix.loras]), () => (pair ? verdicts() : []));
    box.tune.update();
  }

  function strongest(found) {
    const most = (all, count) => {
      const total = all.reduce((sum, one) => sum + one.effect ** 2, 0) || 1; // of the LoRA's own
      return [...all].sort((one, other) => other.effect - one.effect).slice(0, count).map((one) => `${one.block} (${Math.round((100 * one.effect ** 2) / total)} %)`).join(", ");
    };
    return [make("p", {}, t("Most of it comes from {blocks}. Point at a bar below the columns to see where in the picture; click to keep the map.", { blocks: most(found.blocks, 4) })), outdated(found) && make("p", { class: "train-lora-hint" }, t("Measured with other numbers or another prompt; measure again for these.")),
      ...alone(found).map(([n, name]) => make("p", {}, t("{name} alone: most from {blocks}.", { name: blocks.stem(name), blocks: most(found.by_lora.filter((one) => one.lora === n), 3) })))];
  }

  function verdicts() {
    if (pair.names[0] === pair.names[1]) return [make("p", {}, t("The bars below the columns show how much it changes in each block."))];
    const all = blocks.columns().map((block) => [block, together(block)]).filter(([, it]) => it);
    const of = (verdict) => all.filter(([, it]) => it.verdict === verdict).map(([block]) => block);
    const lines = [[t("Cancels in {blocks}."), of("cancels")], [t("Takes a little away in {blocks}; larger numbers would take more."), of("little")], [t("Mostly adds noise in {blocks}."), of("noise")], [t("Adds up in {blocks}."), of("strengthens")], [t("Each acts on its own in {blocks}."), of("beside")]];
    const noisy = of("noise"), other = pair.names[1];
    return [make("p", {}, t("{second} beside {first}:", { first: blocks.stem(pair.names[0]), second: blocks.stem(other) })), ...lines.filter(([, found]) => found.length).map(([text, found]) => make("p", {}, text.replace("{blocks}", found.join(", ")))),
      noisy.length > 0 && blocks.button(t("Set {name} to 0 there", { name: blocks.stem(other) }), () => {
        const one = state.mix.loras.find((it) => it.name === other);
        blocks.edit(t("Less noise"), () => { one.weights = rules.change(one.weights, noisy, () => 0, blocks.locked(one)); });
      })];
  }

  // Tuning

  function buildTune() {
    const box = section(t("Let the numbers be tuned"), t("Tries many small changes, judged by two goals: drawn pictures show the subject, and neutral prompts keep looking as without the LoRA. Takes minutes; ends in numbers to look at, compared with the presets."));
    box.kind = "tune";
    const field = (label, element) => make("label", { class: "train-lora-blocks-field" }, make("span", {}, label), element);
    const keepField = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0.5, "aria-label": t("How much everything else is to be kept") });
    const pictures = make("input", { type: "text", spellcheck: "false", placeholder: t("the folder that it was trained on") });
    const neutral = make("textarea", { rows: 2, spellcheck: "false", placeholder: t("one prompt a line, without the subject; some are chosen where this is empty") });
    const name = make("input", { type: "text", spellcheck: "false", autocomplete: "off" });
    const suggested = () => `${blocks.stem(state.mix.loras[0].name)}-tuned`.replace(/[:#,]/g, "-");
    box.act = () => {
      const body = { mix: blocks.told(), keep: Number(keepField.value), name: name.value.trim() || suggested() };
      if (pictures.value.trim()) body.pictures = pictures.value.trim();
      const prompts = neutral.value.split("\n").map((line) => line.trim()).filter(Boolean);
      if (prompts.length) body.prompts = prompts;
      start("tune", body);
    };
    box.append(make("label", { class: "train-lora-blocks-tradeoff" }, make("span", {}, t("all of the subject")), keepField, make("span", {}, t("keep the rest"))),
      box.details = make("details", { class: "train-lora-help" }, make("summary", {}, t("Pictures and prompts that it is judged by")), make("div", { class: "train-lora-blocks-form" }, field(t("Pictures of the subject"), pictures), field(t("Neutral prompts"), neutral), field(t("Keep it as preset"), name))),
      box.row, box.progress, box.alarm, box.result);
    box.update = () => {
      update(box, jobs.tune && jobs.tune.state === "done" ? t("Tune again") : t("Tune"));
      if (jobs.tune && jobs.tune.state === "failed" && !jobs.tune.id) box.details.open = true; // it was refused: what is missing is there
      mark(name, "placeholder", state.mix.loras.length ? suggested() : "");
      const found = jobs.tune && jobs.tune.state === "done" ? jobs.tune.result : null;
      fill(box.result, found ? jobs.tune.id : "", () => (found ? tuned(found) : []));
    };
    return box;
  }

  function tuned(found) {
    const share = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
    const rows = found.table || [];
    return [
      make("p", {}, t("Subject: how much nearer to its pictures than without the LoRA, the plain LoRA being 100 %. Change elsewhere: how far neutral pictures move, less is better. Small differences in these two don't show in pictures.")),
      found.drawn > 0 && make("p", {}, t("In pictures: how surely {count} new pictures show the subject, judged by the model itself.", { count: found.drawn })),
      make("table", { class: "train-lora-table" }, make("thead", {}, make("tr", {}, [t("Numbers"), t("Subject"), t("Change elsewhere"), found.drawn > 0 && t("In pictures")].map((head) => head && make("th", {}, head)))),
        make("tbody", {}, rows.map((row) => make("tr", {}, make("td", {}, message(row.name)), make("td", {}, share(row.subject)), make("td", {}, share(row.drift)), found.drawn > 0 && make("td", {}, share(row.shown)))))),
      found.presets && found.presets.length > 0 && make("p", {}, t("Kept as preset {names}.", { names: found.presets.map((one) => one.name).join(", ") })),
      make("div", { class: "train-lora-buttons" }, blocks.button(t("Use the tuned numbers"), () => takeTuned(found), { class: "train-lora-grid-button train-lora-grid-primary" })),
    ];
  }

  function takeTuned(found) {
    blocks.edit(t("Tuned"), () => {
      found.mix.forEach(({ name }, n) => {
        const one = state.mix.loras.find((it) => it.name === name);
        if (one) one.weights = rules.put(one.weights, found.weights[n], blocks.locked(one));
      });
    });
    if (!blocks.boards.live) blocks.boards.tryNow();
  }

  blocks.part("measures", "measures", { build, draw });
  Object.assign(blocks, { measures: { meters, heat, jobs } });
})();
