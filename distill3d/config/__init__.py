"""From an experiment's file to frozen, validated settings.

Import from the modules: `registry` (to register a component or build one), `schema` and `trace` (the settings), `plain`
(settings as containers), `catalog`, `files` and `builder` (names and files), `compare` and `tables` (what verbs show).
"""
