"""Operations that models share: attention, RoPE and linear products."""
