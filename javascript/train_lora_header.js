// The head of the tab: the checkpoint that is trained on, and what training still needs.
(() => {
  "use strict";
  const lora = window.trainLora;
  if (!lora || lora.header) return;
  const { t, message, make, fill } = lora;
  lora.header = true;

  function checkpoint(status, element) {
    const { checkpoint: name, checkpoints: any, vae, clip_skip: skip } = status.host;
    fill(element, JSON.stringify([name, any, vae, skip]), () => {
      if (!any) return [make("span", {}, t("There is no checkpoint here yet. Put one into the WebUI's folder of checkpoints (usually models/Stable-diffusion), then press the button beside the list at the top of the page."))];
      if (!name) return [make("span", {}, t("No checkpoint is chosen. Choose one at the top of the page."))];
      const [before, after] = t("Trains on and draws with {checkpoint}, the checkpoint that is chosen at the top of the page.").split("{checkpoint}");
      const facts = [vae && t("VAE: {name}", { name: vae }), skip && t("CLIP skip: {number}", { number: skip })].filter(Boolean);
      return [make("span", {}, before, make("b", {}, name), after || ""),
        facts.length ? make("small", { title: t("Taken over from the WebUI; a field below that is filled in counts more.") }, ` ${facts.join(" · ")}`) : null];
    });
  }

  function packages(status, element) {
    const { state, message: text, lines } = status.packages;
    if (["ready", "unknown", "checking"].includes(state)) return;
    const installing = state === "installing";
    fill(element, JSON.stringify(status.packages), () => [
      make("b", {}, installing ? t("Installing what training needs…") : t("Training needs some packages first")),
      make("p", {}, installing ? t("A few minutes. They go into a folder of their own; the WebUI's packages stay as they are.") : message(text)),
      lines.length ? make("pre", {}, lines.join("\n")) : null,
    ]);
  }

  lora.register("checkpoint", { id: "train_lora_checkpoint", draw: checkpoint });
  lora.register("packages", { id: "train_lora_packages_text", draw: packages });
})();
