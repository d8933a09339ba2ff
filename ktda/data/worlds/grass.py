"""demo_grass: pasture, labelled by green cover in five levels (0 low to 4 high)."""

CLASSES = ("low", "middle-low", "middle", "middle-high", "high")
PALETTE = ((185, 101, 71), (248, 202, 155), (211, 232, 158), (138, 191, 104), (92, 144, 77))
