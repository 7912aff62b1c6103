"""A comparison in words: Markdown, terminal, and the sentences both share."""
