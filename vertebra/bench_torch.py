"""The original's layout in PyTorch, for timing alone: fresh weights, one pass over a patch."""

from vertebra.config import Config


def time_original(config: Config, patch, *, repeats: int) -> dict[str, float]:
    """Time one pass of the original's layout, with its own way of normalising (train mode).

    Args:
        config: uses `channels`.
        patch: (1, z, y, x, 2) float32.
        repeats: timed passes; the fastest counts.

    Returns:
        Seconds by memory layout; empty where PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        return {}
    from common.cost.stopwatch import fastest

    run = build(torch, config.channels)
    tensor = torch.from_numpy(patch).permute(0, 4, 1, 2, 3)
    seconds = {}
    with torch.no_grad():
        for name, layout in (("contiguous", torch.contiguous_format),
                             ("channels last", torch.channels_last_3d)):  # fmt: skip
            laid = tensor.contiguous(memory_format=layout)
            run.to(memory_format=layout)
            run.forward(laid)
            seconds[name] = fastest(lambda laid=laid: run.forward(laid), repeats)[0]
    return seconds


def build(torch, channels: int):
    """Return the network: four shared blocks, encoder, decoder, mask and completeness."""
    nn, functional = torch.nn, torch.nn.functional

    def block(inputs, outputs):
        layers = []
        for before, after in ((inputs, outputs), (outputs, outputs)):
            layers += [nn.Conv3d(before, after, 3, padding=1), nn.ReLU(inplace=True),
                       nn.BatchNorm3d(after)]  # fmt: skip
        return nn.Sequential(*layers)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.initial, self.rest = block(2, channels), block(channels, channels)
            self.up, self.final = block(2 * channels, channels), block(channels, 1)
            self.dense = nn.Linear(channels, 1)

        def forward(self, x):
            skips = [self.rest(self.initial(x))]
            for _ in range(3):
                skips.append(self.rest(functional.max_pool3d(skips[-1], 2)))
            x = skips[-1]
            for skip in skips[-2::-1]:
                x = self.up(torch.cat([skip, functional.interpolate(x, scale_factor=2)], 1))
            mask = torch.sigmoid(self.final(x))
            x = skips[-1]
            while min(x.shape[2:]) > 2:
                x = self.rest(functional.max_pool3d(x, 2))
            x = functional.max_pool3d(x, 2).flatten()[:channels]
            return mask, torch.sigmoid(self.dense(x))

    return Network().train()
