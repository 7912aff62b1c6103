"""Numbers: runs grouped to arms, compared with statistics."""
