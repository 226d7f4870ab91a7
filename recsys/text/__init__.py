"""Items as text: attributes to sentences, sentences to tokens, tokens to the blocks that attention reads."""
