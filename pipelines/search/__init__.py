"""A search under Tune: who is suggested, what is recorded, finals, the champion."""
