"""The look of the page: a theme without web fonts, and the style sheet beside this file."""

from __future__ import annotations

from importlib.resources import files

import gradio as gr
from gradio.themes import Base


def theme() -> Base:
    """Gradio's plainest theme in the page's own colours, with fonts of the system only."""
    base = Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        # Named fonts would be fetched from elsewhere; the style sheet names the system's.
        font=["sans-serif"],
        font_mono=["monospace"],
    )
    return base.set(
        body_background_fill="#faf9f6",
        body_background_fill_dark="#161513",
        body_text_color="#23211e",
        body_text_color_dark="#e9e5de",
        body_text_color_subdued="#68635b",
        body_text_color_subdued_dark="#a8a196",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1d1c19",
        background_fill_secondary="#f4f2ed",
        background_fill_secondary_dark="#23211e",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        border_color_primary="#e2ded6",
        border_color_primary_dark="#3a3732",
        input_background_fill="#ffffff",
        input_background_fill_dark="#201f1c",
        input_border_color="#cfc9be",
        input_border_color_dark="#4a463f",
        input_border_color_focus="#0f766e",
        input_border_color_focus_dark="#5eead4",
        button_primary_background_fill="#0f5f58",
        button_primary_background_fill_hover="#0b4a45",
        button_primary_background_fill_dark="#7fd6c9",
        button_primary_background_fill_hover_dark="#a5e6dc",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#10211f",
        block_label_text_color="#68635b",
        block_label_text_color_dark="#a8a196",
        block_title_text_color="#4b4740",
        block_title_text_color_dark="#cbc5bb",
    )


def head() -> str:
    """What goes into the document's head: the style sheet, as it is.

    Not through Gradio's `css`, which rewrites selectors and would break those on `body.dark`.
    """
    sheet = files("app.ui").joinpath("page.css").read_text(encoding="utf-8")
    return f"<style>\n{sheet}\n</style>"
