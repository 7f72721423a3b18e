"""The tab in English and Chinese: which is chosen, switching at once, and what is left alone."""

from __future__ import annotations

from typing import Any

import pytest

CHINESE = "[\u4e00-\u9fff]"
LEFT = """() => {
  const root = document.getElementById("train_lora"), left = new Set();
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node; (node = texts.nextNode());) {
    const at = node.parentElement;
    if (at.closest("pre, code, textarea, script, style, [data-as-it-is], [data-raw]")) continue;
    if (/[A-Za-z]{3}.*[A-Za-z ]{3}/.test(node.data) && !/[\\u4e00-\\u9fff]/.test(node.data)) left.add(node.data.trim());
  }
  return [...left];
}"""
NAMES = {"Mini (embedded)", "Min SNR gamma", "Dropout", "rsLoRA", "xformers", "Clip skip", "Euler a"}


def step(page: Any, name: str) -> None:
    page.evaluate(f"trainLora.step('{name}')")
    page.locator(f"#train_lora_step_{name}").wait_for(state="visible", timeout=10_000)


def language(page: Any) -> str:
    return page.evaluate("document.getElementById('train_lora').lang")


def in_language(page: Any, code: str) -> None:
    page.wait_for_function(f"document.getElementById('train_lora').lang === '{code}'", timeout=20_000)


def choose(page: Any, code: str) -> None:
    page.locator(f'#train_lora_language button[data-language="{code}"]').click()
    in_language(page, code)


def put(page: Any, html: str) -> None:
    """Elements of ours and of others, as gradio or another extension would bring them into the tab."""
    page.evaluate(
        """(html) => {
          const box = document.createElement("div");
          box.id = "language_probe";
          box.innerHTML = html;
          document.getElementById("train_lora").append(box);
        }""",
        html,
    )
    page.wait_for_timeout(200)


def told(page: Any) -> str:
    return page.locator("#language_probe").inner_text()


def test_a_chinese_browser_gets_chinese_everywhere(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    for name in ("pictures", "captions", "training", "grid", "blocks"):
        step(page, name)
        page.wait_for_timeout(300)
        left = {text for text in page.evaluate(LEFT) if text not in NAMES}
        assert not left, name
    assert page.locator("#train_lora_start").inner_text().strip() == "开始训练"
    assert page.get_attribute("#train_lora_find input, #train_lora_find textarea", "placeholder").startswith("噪声")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_other_browsers_get_english(page) -> None:
    assert language(page) == "en"
    step(page, "training")
    assert page.locator("#train_lora_start").inner_text().strip() == "Start training"


def test_switching_is_instant_and_remembered(page) -> None:
    step(page, "training")
    choose(page, "zh-CN")
    assert page.locator("#train_lora_start").inner_text().strip() == "开始训练"
    assert page.locator('#train_lora_language button[data-language="zh-CN"]').get_attribute("aria-pressed") == "true"
    page.reload()
    page.wait_for_selector("#train_lora[lang=zh-CN]", state="attached", timeout=60_000)
    step(page, "training")
    choose(page, "en")
    assert page.locator("#train_lora_start").inner_text().strip() == "Start training"
    root = page.locator("#train_lora")
    page.wait_for_timeout(1500)  # a status has been drawn
    assert not page.evaluate(
        f"/{CHINESE}/.test(document.getElementById('train_lora').innerText.replace('中文', ''))"
    ), root.inner_text()


@pytest.mark.parametrize(
    ("localization", "browser", "expected"),
    [
        ("zh_CN", "en-US", "zh-CN"),
        ("简体中文 (Stable)", "en-US", "zh-CN"),
        ("None", "zh-CN", "zh-CN"),
        ("None", "de", "en"),
    ],
)
def test_the_webuis_language_comes_first(new_page, localization: str, browser: str, expected: str) -> None:
    page = new_page(locale=browser)
    page.add_init_script(f"window.opts = {{ localization: {localization!r} }}")
    page.reload()
    page.wait_for_selector(f"#train_lora[lang={expected}]", state="attached", timeout=60_000)


def test_messages_are_translated_wherever_they_come_from(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    say = "(text) => trainLora.message(text)"
    known = {
        "there is no such folder": "没有这个文件夹",
        "There is no such folder. Check the path.": "没有这个文件夹。检查路径。",
        "/a/b c: the file is cut off: 12 bytes are missing. Download or copy it again": (
            "/a/b c：文件不完整：缺少 12 字节。重新下载或复制"
        ),
        "'abc' is not a whole number": "'abc' 不是整数",
        "10_mira: 3 of 10 pictures: left out: a.png, b.png and 2 more": None,
        "the training blew up: the loss became nan. The files saved before are intact. Try one after the other: lower "
        "the learning rate from 0.001 to 0.0003; set max_grad_norm 1, so that no single gradient counts too much": (
            "炸炉了：loss 变成了 nan。之前保存的文件完好无损。请逐一尝试：把学习率从 0.001 降到 0.0003；"
            "把 max_grad_norm 设为 1，避免单个梯度影响过大"
        ),
        "no caption for 3 of 13 pictures; the folder's name would serve": "3 / 13 张图片没有标注；会使用文件夹的名称",
        "9 tags are on one picture alone: blue sky, red wall and 4 more": (
            "9 个标签只出现在一张图片上：blue sky, red wall 等，另有 4 个"
        ),
        "The project blue dog project uses these pictures already": "项目 blue dog project 已在使用这些图片",
        "2 groups of pictures that look alike": "2 组图片看起来相似",
        "steps 1,300: usual for a person are 3,000 to 5,000": "步数 1,300：真人通常为 3,000 到 5,000",
        "starting the measurement": "正在启动测量",
        "nobody has translated this one": "nobody has translated this one",
        "": "",
    }
    for english, chinese in known.items():
        translated = page.evaluate(say, english)
        assert translated == chinese if chinese is not None else "left out" not in translated


def test_what_users_wrote_is_left_alone(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    put(
        page,
        '<p id="ours">Learning rate</p><p data-as-it-is>Learning rate</p><pre>Learning rate</pre>'
        "<p data-raw><b>Learning rate</b></p><p><code>Learning rate</code></p><textarea>Learning rate</textarea>"
        '<input value="Learning rate" placeholder="Weights"><p>my Learning rate.png</p>',
    )
    probe = page.locator("#language_probe")
    assert told(page).count("Learning rate") == 5
    assert probe.locator("#ours").inner_text() == "学习率"
    assert probe.locator("textarea").input_value() == probe.locator("input").input_value() == "Learning rate"
    assert probe.locator("input").get_attribute("placeholder") == "权重"


def test_text_that_changes_later_is_translated_again(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    put(page, "<p>Learning rate</p>")
    page.evaluate("document.querySelector('#language_probe p').firstChild.data = 'Epoch 3'")
    page.wait_for_timeout(200)
    assert told(page) == "第 3 轮"
    page.evaluate("document.querySelector('#language_probe p').textContent = 'Weights'")
    page.wait_for_timeout(200)
    assert told(page) == "权重"
    choose(page, "en")
    assert told(page) == "Weights"


def test_another_localization_may_have_been_first(page) -> None:
    """The WebUI's own localization.js changes texts before or after we see them; a bilingual one shows both."""
    choose(page, "zh-CN")
    put(
        page,
        '<p id="before">学习速率</p><p id="after">Learning rate</p>'
        '<div class="bilingual__trans_wrapper">学习率<em>Learning rate</em></div>',
    )
    assert page.locator("#before").inner_text() == "学习速率"
    page.evaluate("document.querySelector('#after').firstChild.data = '学习速率'")
    page.wait_for_timeout(200)
    assert page.locator("#after").inner_text() == "学习速率"
    assert page.locator("#language_probe em").inner_text() == "Learning rate"
    choose(page, "en")
    assert page.locator("#before").inner_text() == page.locator("#after").inner_text() == "学习速率"


LOCALIZATION = """(() => {
  window.opts = { localization: "%s" };
  window.localization = { "Learning rate": "率", jacket: "衣", Weights: "重", "Start training": "始", Grid: "表" };
  const put = (node) => { const tl = localization[node.textContent.trim()]; if (tl) node.textContent = tl; };
  const all = (top) => {
    if (top.nodeType === Node.TEXT_NODE) { put(top); return; }
    if (localization[top.placeholder]) top.placeholder = localization[top.placeholder];
    const walker = document.createTreeWalker(top, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) if (node.parentElement.nodeName !== "TEXTAREA") put(node);
  };
  new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach(all)))
    .observe(document, { subtree: true, childList: true });
})()"""
"""A WebUI's localization.js in short: whatever is put into the page is translated where it is one of its words."""

PROBE = (
    '<p id="ours">Learning rate</p><p id="data" data-as-it-is>jacket</p><pre>Weights</pre><p data-raw><b>Grid</b></p>'
    '<input placeholder="Weights">'
)


@pytest.mark.parametrize(
    ("localization", "ours", "hint", "start"),
    [("zh_CN", "学习率", "权重", "开始训练"), ("ja_JP", "率", "Weights", "始")],
)
def test_a_localization_of_the_webui_does_not_mix_with_ours(
    new_page, localization: str, ours: str, hint: str, start: str
) -> None:
    """Its words give way to our language, stay where we haven't got theirs, and never change what users wrote."""
    page = new_page()
    page.add_init_script(LOCALIZATION % localization)
    page.reload()
    page.wait_for_function(f"window.trainLora?.status()?.host && window.opts.localization === '{localization}'")
    step(page, "training")
    page.wait_for_timeout(1000)
    put(page, PROBE)
    probe = page.locator("#language_probe")
    assert probe.locator("#ours").inner_text() == ours
    assert [probe.locator(one).inner_text() for one in ("#data", "pre", "b")] == ["jacket", "Weights", "Grid"]
    assert probe.locator("input").get_attribute("placeholder") == hint
    assert page.locator("#train_lora_start").inner_text().strip() == start
    choose(page, "en")
    assert probe.locator("#ours").inner_text() == "Learning rate"
    assert page.locator("#train_lora_start").inner_text().strip() == "Start training"
    page.reload()  # English was chosen, so it is English from the beginning
    page.wait_for_function("window.trainLora?.status()?.host")
    step(page, "training")
    page.wait_for_timeout(1000)
    put(page, PROBE)
    assert probe.locator("#ours").inner_text() == "Learning rate"
    assert probe.locator("#data").inner_text() == "jacket"
    assert page.locator("#train_lora_start").inner_text().strip() == "Start training"
    assert "表" not in page.locator("#train_lora_steps").inner_text()


def test_nothing_goes_round_in_circles(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    step(page, "training")
    page.wait_for_timeout(1500)
    changes = page.evaluate(
        """() => new Promise((done) => {
          let changes = 0;
          const watcher = new MutationObserver((found) => { changes += found.length; });
          const all = { subtree: true, childList: true, characterData: true, attributes: true };
          watcher.observe(document.getElementById("train_lora"), all);
          setTimeout(() => { watcher.disconnect(); done(changes); }, 5000);
        })"""
    )
    assert changes < 20


def test_errors_at_the_fields_are_chinese(new_page) -> None:
    page = new_page(locale="zh-CN")
    in_language(page, "zh-CN")
    step(page, "training")
    page.locator("#train_lora_unet_lr").locator("input, textarea").first.fill("abc")
    page.locator("#train_lora_start").click()
    error = page.locator("#train_lora_unet_lr .train-lora-error")
    error.wait_for(state="visible", timeout=20_000)
    page.wait_for_timeout(300)
    assert "不是数字" in error.inner_text()
    assert "UNet 学习率" in page.locator("#train_lora_errors").last.inner_text()
