"""What the linears and norms of a decoder's block are for. No compiled loops are loaded by it."""

QUERY, KEY, VALUE, OUTPUT = "query", "key", "value", "output"
GATE, UP, DOWN = "gate", "up", "down"
QUERY_KEY_VALUE, GATE_UP = "query, key and value", "gate and up"

SIDE_BY_SIDE = {QUERY_KEY_VALUE: (QUERY, KEY, VALUE), GATE_UP: (GATE, UP)}
"""What linears give that do for several."""

BEFORE_ATTENTION, AFTER_ATTENTION = "before attention", "after attention"
BEFORE_FEED_FORWARD, AFTER_FEED_FORWARD = "before feed-forward", "after feed-forward"
OF_QUERIES, OF_KEYS = "of queries", "of keys"

SILU, GELU_TANH = 0, 1
"""Gates: SiLU, and GELU by its approximation with a hyperbolic tangent."""
