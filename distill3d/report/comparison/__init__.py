"""Numbers: runs grouped to arms, compared with statistics. It writes no word."""
