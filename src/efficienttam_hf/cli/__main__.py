"""`python -m efficienttam_hf.cli`, where the `efficienttam` script is not on the path."""

from . import main


raise SystemExit(main())
