// Boards: the tries of a mix on the server. Asks for pictures, of which only the newest is drawn, and looks how far it is.
(() => {
  "use strict";
  const lora = window.trainLora, blocks = lora && lora.blocks;
  if (!blocks || blocks.boards) return;
  const { t, get, post } = lora;
  const { state } = blocks;

  const [LOOK, SETTLE, KEEP] = [300, 160, 2000]; // milliseconds: between two looks; a column that rests; until it is kept
  const [SMALL, MOST] = [256 * 256, 16]; // pixels of a picture that is there soon enough without a first look; pictures of a try
  // at: the try that the present numbers come from; shown: the one that is looked at; picture: which of its pictures;
  // wanted: the one that is waited for.
  const boards = { all: [], board: null, now: null, at: null, shown: null, wanted: null, picture: 0, pinned: null, live: false, asking: false, failure: "" };
  let timer = 0, settling = 0, keeping = 0, revision = -1, again = false;

  const base = (id = boards.board.id) => `blocks/boards/${encodeURIComponent(id)}`;
  const address = (url) => (url ? lora.API + url : null);
  const find = (id) => (boards.board && boards.board.tries.find((one) => one.id === id)) || null;
  const underWay = () => Boolean(boards.now && (boards.now.running || boards.now.waiting));
  // The first address that is there, for one of a try's pictures: the picture, else its first small look.
  const pictureOf = (one, n = boards.picture) => address(one && ((one.pictures || [])[n] || (one.drafts || [])[n]));
  const thumbOf = (one, n = 0) => address(one && ((one.thumbs || [])[n] || (one.pictures || [])[n]));
  const scenes = ({ shot }) => [shot.prompt, ...(shot.prompts || [])].flatMap((prompt) => shot.seeds.map((seed) => ({ prompt, seed })));
  const looked = () => (boards.now && boards.now.running && boards.now.running.id === boards.wanted && pictureOf(boards.now.running) ? boards.now.running : find(boards.shown));

  // Which of a try's pictures has the prompt and seed that are looked at; −1 where none has.
  function placeOf(one) {
    const now = looked(), scene = now && scenes(now.mix)[boards.picture];
    return scene && one ? scenes(one.mix).findIndex(({ prompt, seed }) => prompt === scene.prompt && seed === scene.seed) : -1;
  }

  // Seconds that so many pictures may take, by the latest tries; null where nothing is known.
  function seconds(count) {
    const work = ({ shot }) => shot.steps * shot.width * shot.height;
    const rates = (boards.board ? boards.board.tries : []).slice(-8).filter((one) => one.seconds && one.pictures.length).map((one) => one.seconds / one.pictures.length / work(one.mix));
    return rates.length ? count * work(state.mix) * Math.max(...rates) : null; // what came from the history took less
  }

  async function guarded(act) {
    try {
      const told = await act();
      blocks.complain(null);
      return told;
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      blocks.complain(error);
      return null;
    } finally {
      blocks.redraw();
    }
  }

  async function loadList() {
    boards.all = await get("blocks/boards");
  }

  // id: the one that was open; null where new work was begun; undefined where nothing is known.
  async function open(id) {
    await loadList();
    const wanted = id === null ? null : boards.all.find((one) => one.id === id) || boards.all[0];
    if (wanted) await show(wanted.id, !state.mix.loras.length);
    if (blocks.asked) await openAsked();
  }

  // taking: its latest mix becomes the one on the page.
  async function show(id, taking = true) {
    const told = await get(base(id));
    take(told);
    const last = told.tries[told.tries.length - 1];
    [boards.at, boards.shown, boards.picture, boards.pinned] = [last ? last.id : null, last ? last.id : null, 0, null];
    const mix = told.mix && told.mix.loras.length ? told.mix : null;
    if (taking && mix) blocks.replace(t("Open {name}", { name: told.name }), mix);
    look();
    blocks.remember();
    blocks.redraw();
  }

  function take(told) {
    boards.board = told;
    blocks.board = told.id;
    revision = -1;
  }

  async function create(more = {}) {
    const name = blocks.stem((state.mix.loras[0] || { name: t("New board") }).name);
    const made = await post("blocks/boards", more.from ? more : { name, mix: blocks.told() });
    take(made);
    [boards.at, boards.shown, boards.pinned, boards.picture] = [null, null, null, 0];
    await loadList();
    return made;
  }

  // New work: nothing is chosen, and the next try begins a history of its own.
  function leave() {
    [boards.board, boards.now, boards.at, boards.shown, boards.pinned, boards.live, blocks.board] = [null, null, null, null, null, false, null];
    blocks.edit(t("New"), () => { [state.mix.loras, state.active] = [[], 0]; });
    blocks.remember();
    blocks.redraw();
  }

  // From the grid's kept cell.
  async function openAsked() {
    const asked = blocks.asked;
    blocks.asked = null;
    await guarded(async () => {
      const made = await create({ from: asked });
      const last = made.tries[made.tries.length - 1];
      [boards.at, boards.shown] = [last ? last.id : null, last ? last.id : null];
      blocks.replace(t("From the grid"), made.mix);
      if (!last) await tryNow();
    });
  }

  // Draw the present numbers. What is being drawn for older ones ends.
  async function tryNow() {
    if (!state.mix.loras.length || scenes(blocks.told()).length > MOST) return;
    if (boards.asking) {
      again = true;
      return;
    }
    boards.asking = true;
    boards.failure = "";
    await guarded(async () => {
      if (!boards.board) await create();
      const { width, height } = state.mix.shot, body = { mix: blocks.told(), draft: width * height > SMALL };
      if (find(boards.at)) body.parent = boards.at;
      const told = (await post(`${base()}/tries`, body)).try;
      boards.wanted = told.id;
      if (told.state === "done") await finish(told.id);
      else boards.now = { running: null, waiting: told, latest: [], revision: -2 };
    });
    boards.asking = false;
    later(0);
    if (again) {
      again = false;
      tryNow();
    }
  }

  async function finish(id) {
    const told = await get(base());
    boards.board = told;
    if (!find(id)) return;
    [boards.at, boards.shown, boards.wanted] = [id, id, null];
    blocks.remember();
  }

  function later(milliseconds = LOOK) {
    clearTimeout(timer);
    timer = setTimeout(look, milliseconds);
  }

  async function look() {
    clearTimeout(timer);
    if (!boards.board) return;
    const { id } = boards.board;
    try {
      const before = underWay(), now = await get(`${base(id)}/now`);
      if (!boards.board || boards.board.id !== id) return;
      boards.now = now;
      if (now.revision !== revision || (before && !underWay())) {
        revision = now.revision;
        const told = await get(base(id));
        if (boards.board && boards.board.id === id) boards.board = told;
        const { last } = now;
        if (last && last.id === boards.wanted && last.state === "done" && find(last.id)) [boards.at, boards.shown, boards.wanted] = [last.id, last.id, null];
        boards.failure = last && last.state === "failed" && !underWay() ? last.error || "" : "";
      }
    } catch (error) {
      if (error && error.detail === undefined) throw error;
      boards.now = null;
      blocks.complain(error);
    }
    blocks.redraw();
    if (underWay() || (boards.now && boards.now.busy)) later();
  }

  // So that another browser finds the numbers as they were left.
  function keepMix() {
    if (boards.board && state.mix.loras.length && !boards.asking) post(`${base()}/mix`, { mix: blocks.told() }).catch(() => {}); // this browser keeps them anyway
  }

  const stop = () => guarded(async () => {
    boards.now = await post(`${base()}/stop`);
    later(0);
  });

  // Go to a try: its numbers, and its scene. What is changed from there is a branch.
  function go(one) {
    const place = Math.max(0, placeOf(one));
    boards.wanted = null;
    [boards.at, boards.shown, boards.picture] = [one.id, one.id, place];
    quietly(() => blocks.replace(t("Go to try {number}", { number: one.id }), { ...one.mix, shot: { prompts: [], ...one.mix.shot } }));
    blocks.redraw();
  }

  let quiet = false;
  function quietly(act) {
    quiet = true;
    try { act(); } finally { quiet = false; }
  }

  const change = (one, what) => guarded(async () => {
    const told = await post(`${base()}/tries/${one.id}`, what);
    Object.assign(one, told.try || told);
  });

  const remove = (one) => guarded(async () => {
    boards.board = await post(`${base()}/tries/${one.id}/remove`);
    boards.removed = one.id;
    if (boards.pinned === one.id) boards.pinned = null;
    if (boards.at === one.id) boards.at = boards.shown = one.parent;
  });

  const restore = () => guarded(async () => {
    boards.board = await post(`${base()}/undo`);
    boards.removed = null;
  });

  const rename = (name) => guarded(async () => {
    await post(`${base()}/rename`, { name });
    boards.board.name = name;
    await loadList();
  });

  const removeBoard = () => guarded(async () => {
    const gone = boards.board;
    await post(`${base()}/remove`);
    boards.gone = gone;
    [boards.board, boards.now, boards.at, boards.shown, blocks.board] = [null, null, null, null, null];
    await loadList();
    if (boards.all.length) await show(boards.all[0].id);
  });

  const restoreBoard = () => guarded(async () => {
    const { id } = boards.gone;
    await post(`${base(id)}/undo`);
    boards.gone = null;
    await loadList();
    await show(id);
  });

  blocks.onChange(() => {
    clearTimeout(keeping);
    if (boards.board && state.mix.loras.length) keeping = setTimeout(keepMix, KEEP);
    if (!boards.live || quiet) return;
    clearTimeout(settling);
    settling = setTimeout(tryNow, SETTLE);
  });

  Object.assign(boards, { open: (id) => guarded(() => show(id)), leave, tryNow, stop, go, change, remove, restore, rename, removeBoard, restoreBoard, find, underWay, pictureOf, thumbOf, scenes, placeOf, looked, seconds, MOST, look });
  Object.assign(blocks, { boards, openBoard: open, openAsked, guarded });
})();
