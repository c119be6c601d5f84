"""The Gradio pages. gradio is imported in this package and nowhere else."""
