"""A variational autoencoder of digits, and what the weight of its divergence does, on scikit-learn's data.

    python examples/beta_vae_digits.py                     # 1797 images of 8 x 8, under a minute on two cores
    python examples/beta_vae_digits.py --plot plot.png     # information of each latent dimension, and both terms

The same network is trained by `elbo_loss` with three betas. Its terms tell what happens: `kl` is the information, in
nats, that the latent code keeps of an image, and `reconstruction` what that buys. Dimension by dimension
(`gaussian_kl`), a code has some dimensions that say something and others whose posterior has collapsed onto the prior.
Of ten, beta = 1 has five in use and beta = 2 three; beta = 4 asks more for a nat than any of them is worth, and the
whole code collapses: 0 nats, and the same reconstruction, the mean of all digits, for every image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import fastloss

LATENT = 10
ACTIVE = 0.05  # nats, from which a dimension counts as used


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits of the reconstruction, mu, logvar)"""
        mu, logvar = self.encoder(images).chunk(2, 1)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar


def information(mu: Tensor, logvar: Tensor) -> Tensor:
    """(LATENT,), the mean divergence of each dimension from the prior."""
    return fastloss.gaussian_kl(mu[..., None], logvar[..., None], reduction="none").mean(0)


def run(
    steps: int = 1500, betas: tuple[float, ...] = (1.0, 2.0, 4.0), seed: int = 0, plot: Path | None = None
) -> dict[float, dict[str, float]]:
    """What came out on unseen images, by beta."""
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(load_digits().data, dtype=torch.float32)[order] / 16
    known, unseen = images[:1400], images[1400:]
    results, dimensions, curves = {}, {}, {}
    for beta in betas:
        torch.manual_seed(seed)
        model = Autoencoder()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        curve = []
        for _ in range(steps):
            batch = known[torch.randint(len(known), (128,))]
            recon, mu, logvar = model(batch)
            loss, terms = fastloss.elbo_loss(recon, batch, mu, logvar, recon_kind="bce", beta=beta, return_terms=True)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append([float(terms["reconstruction"]), float(terms["kl"])])
        with torch.no_grad():
            recon, mu, logvar = model(unseen)
            _, terms = fastloss.elbo_loss(recon, unseen, mu, logvar, recon_kind="bce", return_terms=True)
            dimensions[beta] = information(mu, logvar).sort(descending=True).values.tolist()
        results[beta] = {
            "reconstruction": float(terms["reconstruction"]),
            "kl": float(terms["kl"]),
            "dimensions in use": sum(nats > ACTIVE for nats in dimensions[beta]),
        }
        curves[beta] = curve
    if plot is not None:
        draw(plot, dimensions, curves)
    return results


def draw(path: Path, dimensions: dict[float, list[float]], curves: dict[float, list[list[float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    width = 0.8 / len(dimensions)
    for k, (beta, nats) in enumerate(dimensions.items()):
        label = f"beta {beta:g}"
        left.bar([place + k * width for place in range(1, LATENT + 1)], nats, width, label=label)
        steps = range(0, len(curves[beta]), max(1, len(curves[beta]) // 100))
        right.plot(steps, [curves[beta][step][0] for step in steps], color=f"C{k}", label=f"reconstruction, {label}")
        right.plot(steps, [curves[beta][step][1] for step in steps], "--", color=f"C{k}", label=f"kl, {label}")
    left.set(xlabel="latent dimensions, by what they say", ylabel="nats on unseen digits")
    left.legend()
    right.set(xlabel="steps", ylabel="nats of a training image")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Variational autoencoders of digits with several betas")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--betas", type=float, nargs="+", default=(1.0, 2.0, 4.0))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    for beta, result in run(**vars(parser.parse_args())).items():
        print(f"beta {beta:<6g}" + "  ".join(f"{key} {value:.4g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
