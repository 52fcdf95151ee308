"""Second floor: finished run folders read back, compared, drawn and printed; nothing is trained here."""
