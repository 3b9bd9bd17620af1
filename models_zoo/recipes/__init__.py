"""How the shipped files were made, for anyone to repeat (extra `recipes`); nothing else imports this."""
