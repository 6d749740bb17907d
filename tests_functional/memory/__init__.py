"""Guest RAM of every kind, in every state: what QEMU accepts is proven right, a refusal is checked."""
