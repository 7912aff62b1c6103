"""The page while runs go on."""
