"""The web page.

`page`: Gradio's components and what they do. `render`, `columns`: results as HTML. `text`: escaping
and highlighting. `theme`: the look, with `page.css`.
"""
