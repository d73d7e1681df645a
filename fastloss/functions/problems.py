"""Which loss for which problem, and what goes wrong: the data of :func:`fastloss.recommend`.

An example is one expression, to be evaluated where ``torch`` and ``fastloss`` are imported. The words are stems: a text
that has one of them in it means the entry.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Advice", "Pitfall", "Problem"]


class Advice(NamedTuple):
    """A loss, and when to take it."""

    when: str
    """The symptom or the wish. ``""``: of the default."""
    function: str
    """What to call, below ``fastloss``."""
    why: str
    example: str
    words: tuple[str, ...] = ()


class Pitfall(NamedTuple):
    """A mistake that is often made with a problem, and its remedy."""

    mistake: str
    consequence: str
    remedy: str
    function: str
    example: str
    words: tuple[str, ...]


class Problem(NamedTuple):
    """What a loss is wanted for."""

    name: str
    words: tuple[str, ...]
    default: Advice
    upgrades: tuple[Advice, ...]
    pitfalls: tuple[Pitfall, ...]


def _default(function: str, why: str, example: str) -> Advice:
    return Advice("", function, why, example)


SQUARES_OF_CLASSES = Pitfall(
    "the squared error of class probabilities",
    "behind a sigmoid or a softmax its gradient vanishes where the answer is confident and wrong",
    "cross-entropy of the logits",
    "cross_entropy",
    "fastloss.cross_entropy(torch.randn(8, 5), torch.randint(5, (8,)))",
    ("mse", "squared"),
)
NO_CLASS_WEIGHTS = Pitfall(
    "an unweighted cross-entropy of classes of very different size",
    "the frequent class makes up the gradient, and the rare one is never predicted",
    "weights of the classes, a focal loss, or batches with as many of each class",
    "cross_entropy",
    "fastloss.cross_entropy(torch.randn(8, 2), torch.randint(2, (8,)), weight=torch.tensor([1.0, 20.0]))",
    ("unweighted", "weights", "never predict"),
)
MOVING_TARGETS = Pitfall(
    "the squared error of values whose targets move",
    "one far target is one huge step, and the next targets are made from its result",
    "a loss that is linear in large errors, targets from a slower copy of the network, or clipped values",
    "rl.value_clip_loss",
    "fastloss.rl.value_clip_loss(torch.randn(8), torch.randn(8), torch.randn(8), clip=0.2)",
    ("diverg", "moving", "non-stationary", "unstable"),
)
NO_ENTROPY = Pitfall(
    "a policy that nothing keeps uncertain",
    "it settles on one action before it has seen the others",
    "subtract a share of the policy's entropy from the loss, and log it",
    "regularization.entropy",
    "-0.01 * fastloss.regularization.entropy(torch.randn(8, 4))",
    ("entropy", "explor", "determinis", "prematur"),
)
SCALES = Pitfall(
    "terms of different size in one sum",
    "the largest is all that is minimised, and a term that has become 0 is not missed",
    "bring them to one scale before they are weighted, and watch each by itself",
    "compose.TermMonitor",
    'fastloss.compose.TermMonitor().update({"data": torch.tensor(1.0), "penalty": torch.tensor(1e-9)})',
    ("scale of", "dominat", "dead term", "several terms"),
)
NO_KL = Pitfall(
    "rewards without a penalty on the distance from the reference policy",
    "the policy finds answers that the reward model likes and nobody else does",
    "the divergence from the reference, in the loss or in the rewards",
    "alignment.kl_penalty",
    'fastloss.alignment.kl_penalty(-torch.rand(4, 6), -torch.rand(4, 6), kind="k2")',
    ("hack", "kl penalty", "drift"),
)
EASY_TRIPLETS = Pitfall(
    "triplets taken at random",
    "most of them keep the margin already: their loss and their gradient are 0",
    "the hardest of the batch, or those within the margin",
    "semi_hard_triplet_loss",
    "fastloss.semi_hard_triplet_loss(torch.randn(8, 4), torch.arange(8) // 2, margin=0.2)",
    ("zero gradient", "random triplet", "mining", "no learning", "trivial"),
)
NO_TRIPLETS = Pitfall(
    "a batch without a triplet",
    "no class has two samples, or there is one class alone: the loss and its gradient are 0",
    "batches of several samples of each of several classes",
    "batch_hard_triplet_loss",
    "fastloss.batch_hard_triplet_loss(torch.randn(8, 4), torch.arange(8) // 2, margin=0.2)",
    ("no valid triplet", "no triplet", "without a triplet", "sampler"),
)
COLLAPSED_CODE = Pitfall(
    "the weight of the divergence in a variational autoencoder is too large",
    "the code says nothing of the image any more (posterior collapse)",
    "raise the weight slowly from 0, and leave each dimension some bits for nothing",
    "elbo_loss",
    "fastloss.elbo_loss(*torch.randn(2, 8, 16), *torch.randn(2, 8, 4), beta=0.5, free_bits=0.1)",
    ("collaps", "beta", "vae"),
)

PROBLEMS = (
    Problem(
        "regression",
        ("regress",),
        _default(
            "mse_loss",
            "its minimiser is the conditional mean",
            "fastloss.mse_loss(torch.randn(8), torch.randn(8))",
        ),
        (
            Advice(
                "outliers",
                "huber_loss",
                "a large error pulls no harder than one of size delta",
                "fastloss.huber_loss(torch.randn(8), torch.randn(8), delta=1.0)",
                ("outlier", "heavy tail", "robust"),
            ),
            Advice(
                "uncertainty is wanted",
                "quantile_loss",
                "one output for each level makes an interval, whatever the distribution is",
                "fastloss.quantile_loss(torch.randn(8, 3), torch.randn(8), torch.tensor([0.05, 0.5, 0.95]))",
                ("uncertain", "interval", "quantile"),
            ),
            Advice(
                "sparse targets",
                "l1_loss",
                "its minimiser is the conditional median, which is 0 where most targets are",
                "fastloss.l1_loss(torch.randn(8), torch.zeros(8))",
                ("sparse", "zeros", "median"),
            ),
        ),
        (SCALES,),
    ),
    Problem(
        "binary classification",
        ("binary", "two classes", "yes or no"),
        _default(
            "binary_cross_entropy_with_logits",
            "the likelihood of a label; of logits it is exact where a probability would be rounded to 0 or 1",
            "fastloss.binary_cross_entropy_with_logits(torch.randn(8), torch.randint(2, (8,)).float())",
        ),
        (
            Advice(
                "imbalanced classes",
                "sigmoid_focal_loss",
                "the many easy examples of the frequent class count for little",
                'fastloss.sigmoid_focal_loss(torch.randn(8), torch.randint(2, (8,)).float(), reduction="mean")',
                ("imbalanc", "unbalanc", "rare", "skew"),
            ),
            Advice(
                "noisy labels",
                "binary_cross_entropy_with_logits",
                "label smoothing: with targets inside of (0, 1) a wrong label cannot ask for an infinite logit",
                "fastloss.binary_cross_entropy_with_logits(torch.randn(8), torch.randint(2, (8,)).float(),"
                " label_smoothing=0.1)",
                ("nois", "wrong label", "mislabel"),
            ),
        ),
        (SQUARES_OF_CLASSES, NO_CLASS_WEIGHTS),
    ),
    Problem(
        "multi-class classification",
        ("multi-class", "multiclass", "multi class", "softmax", "categor"),
        _default(
            "cross_entropy",
            "the likelihood of a class",
            "fastloss.cross_entropy(torch.randn(8, 5), torch.randint(5, (8,)))",
        ),
        (
            Advice(
                "imbalanced classes",
                "softmax_focal_loss",
                "rows that are classified well count for little, and alpha weights the classes",
                "fastloss.softmax_focal_loss(torch.randn(8, 5), torch.randint(5, (8,)), alpha=torch.ones(5))",
                ("imbalanc", "unbalanc", "rare", "skew", "long tail"),
            ),
            Advice(
                "calibrated probabilities are wanted",
                "cross_entropy",
                "label smoothing: no logit is asked to be infinite, so that confidence stays finite, too",
                "fastloss.cross_entropy(torch.randn(8, 5), torch.randint(5, (8,)), label_smoothing=0.1)",
                ("calibrat", "overconfiden", "confident", "nois"),
            ),
        ),
        (SQUARES_OF_CLASSES, NO_CLASS_WEIGHTS),
    ),
    Problem(
        "embedding and retrieval",
        ("embedding", "retriev", "metric learning", "similar"),
        _default(
            "batch_hard_triplet_loss",
            "an anchor is nearer to its class than to any other, by a margin; the hardest triplets of the batch",
            "fastloss.batch_hard_triplet_loss(torch.randn(8, 4), torch.arange(8) // 2, margin=0.2)",
        ),
        (
            Advice(
                "scale: large batches, many negatives",
                "info_nce",
                "every other key of the batch is a negative, for one matrix product",
                "fastloss.info_nce(torch.randn(8, 4), torch.randn(8, 4), temperature=0.1)",
                ("scale", "large", "many negatives", "self-supervised", "unlabel"),
            ),
            Advice(
                "labels",
                "supcon_loss",
                "all embeddings of a class are positives of each other",
                "fastloss.supcon_loss(torch.randn(8, 4), torch.arange(8) // 2)",
                ("label", "supervis"),
            ),
        ),
        (
            EASY_TRIPLETS,
            NO_TRIPLETS,
        ),
    ),
    Problem(
        "generation of images",
        ("image", "pixel", "diffusion", "vae"),
        _default(
            "diffusion.diffusion_loss",
            "a denoiser is a regression, which is stable, and its samples cover the data",
            "fastloss.diffusion.diffusion_loss(*torch.randn(3, 2, 1, 4, 4), torch.rand(2) * 0.8 + 0.1)",
        ),
        (
            Advice(
                "speed: few steps of sampling",
                "diffusion.flow_matching_loss",
                "paths from noise to data are straight, and take few steps",
                "fastloss.diffusion.flow_matching_loss(*torch.randn(3, 2, 1, 4, 4))",
                ("speed", "fast", "slow", "few steps"),
            ),
            Advice(
                "control by a condition",
                "diffusion.classifier_free_guidance",
                "train with the condition left out at random; in sampling, go beyond what the condition changes",
                "fastloss.diffusion.classifier_free_guidance(*torch.randn(2, 2, 1, 4, 4), 3.0)",
                ("control", "condition", "guid", "prompt"),
            ),
        ),
        (
            COLLAPSED_CODE,
            SCALES,
        ),
    ),
    Problem(
        "generation of text",
        ("text", "language", "token"),
        _default(
            "lm_loss",
            "the likelihood of the next token",
            "fastloss.lm_loss(torch.randn(2, 6, 11), torch.randint(11, (2, 6)))",
        ),
        (
            Advice(
                "alignment with preferences",
                "alignment.dpo_loss",
                "pairs of answers, of which people prefer one, without a reward model",
                "fastloss.alignment.dpo_loss(*-torch.rand(4, 8))",
                ("align", "prefer", "human"),
            ),
            Advice(
                "alignment with a reward model",
                "alignment.reward_model_loss",
                "learned from pairs, it rates answers that the policy makes itself",
                "fastloss.alignment.reward_model_loss(torch.randn(8), torch.randn(8))",
                ("reward", "rlhf"),
            ),
        ),
        (NO_KL,),
    ),
    Problem(
        "reinforcement learning, discrete actions",
        ("discrete", "dqn", "q-learning", "atari"),
        _default(
            "rl.q_learning",
            "deep Q-learning: errors of temporal differences, by Huber's loss, so that single large ones do not decide",
            "fastloss.rl.q_learning(torch.randn(8, 4), torch.randint(4, (8,)), torch.randn(8), torch.randn(8, 4),"
            " delta=1.0)",
        ),
        (
            Advice(
                "the distribution of returns",
                "rl.quantile_huber_loss",
                "quantiles of the return learn more from each transition than its mean does",
                "fastloss.rl.quantile_huber_loss(torch.randn(8, 5), torch.randn(8, 5))",
                ("distribution", "risk", "quantile"),
            ),
            Advice(
                "several agents",
                "games.psro",
                "best responses to a mixture of all earlier policies do not chase each other in circles",
                "fastloss.games.psro(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), iterations=2).payoffs",
                ("agents", "multi-agent", "multiagent", "self-play", "game"),
            ),
        ),
        (MOVING_TARGETS, NO_ENTROPY),
    ),
    Problem(
        "reinforcement learning, continuous actions",
        ("continuous", "robot", "control task", "soft actor"),
        _default(
            "rl.sac_critic_loss",
            "soft actor-critic learns from old transitions, too; its actor takes rl.sac_actor_loss",
            "fastloss.rl.sac_critic_loss(torch.randn(8, 2), torch.randn(8), torch.randn(8, 2), -torch.rand(8))",
        ),
        (
            Advice(
                "on-policy learning is needed",
                "rl.ppo_loss",
                "clipped steps from the policy's own trajectories, with the values of a critic",
                "fastloss.rl.ppo_loss(-torch.rand(8), -torch.rand(8), *torch.randn(3, 8))",
                ("on-policy", "on policy", "simulat", "parallel environments"),
            ),
            Advice(
                "something simple: a deterministic policy (TD3)",
                "rl.sac_critic_loss",
                "with alpha = 0 the target is the lesser of two critics at the target policy's noisy action; the actor"
                " minimises minus the first critic",
                "fastloss.rl.sac_critic_loss(torch.randn(8, 2), torch.randn(8), torch.randn(8, 2), torch.zeros(8),"
                " alpha=0.0)",
                ("simpl", "determinis", "td3"),
            ),
        ),
        (MOVING_TARGETS, NO_ENTROPY),
    ),
    Problem(
        "reinforcement learning, alignment",
        ("alignment", "rlhf", "human feedback", "preference"),
        _default(
            "rl.ppo_clip_loss",
            "a policy that is rewarded by a model of preferences, in steps that are clipped",
            "fastloss.rl.ppo_clip_loss(-torch.rand(2, 6), -torch.rand(2, 6), torch.randn(2, 6))",
        ),
        (
            Advice(
                "no reward model: something simpler",
                "alignment.dpo_loss",
                "the preferences themselves are the loss",
                "fastloss.alignment.dpo_loss(*-torch.rand(4, 8))",
                ("simpl", "offline", "no reward", "pairs"),
            ),
            Advice(
                "no critic",
                "alignment.grpo_loss",
                "the mean reward of several answers to a prompt is what a critic would say",
                "fastloss.alignment.grpo_loss(*-torch.rand(2, 4, 6),"
                " fastloss.alignment.grpo_advantages(torch.randn(4), 2)[:, None])",
                ("critic", "value network", "memory"),
            ),
            Advice(
                "unpaired answers",
                "alignment.kto_loss",
                "each answer is good or bad by itself",
                "fastloss.alignment.kto_loss(*-torch.rand(2, 8), torch.arange(8) < 4, 0.0)",
                ("unpaired", "single", "thumb"),
            ),
        ),
        (NO_KL, NO_ENTROPY),
    ),
    Problem(
        "continual learning",
        ("continual", "lifelong", "forgett", "sequence of tasks"),
        _default(
            "cross_entropy",
            "the loss of the task, over batches that mix samples of earlier tasks in (replay)",
            "fastloss.cross_entropy(torch.cat([torch.randn(8, 5), torch.randn(4, 5)]), torch.randint(5, (12,)))",
        ),
        (
            Advice(
                "no samples of earlier tasks may be kept: regularise",
                "regularization.ewc_loss",
                "a parameter may move as far as earlier tasks do not need it",
                "fastloss.regularization.ewc_loss(torch.randn(8), torch.randn(8), torch.rand(8))",
                ("regulari", "no replay", "privacy", "forgett"),
            ),
            Advice(
                "nothing may be forgotten: another architecture",
                "cross_entropy",
                "new columns for each task, and the earlier ones are frozen (progressive networks); the loss stays",
                "fastloss.cross_entropy(torch.nn.Linear(3, 5)(torch.randn(8, 3).detach()), torch.randint(5, (8,)))",
                ("architect", "frozen", "columns", "progressive"),
            ),
            Advice(
                "plasticity is lost",
                "cross_entropy",
                "reset units that have died, or the last layers, from time to time; the loss stays",
                "fastloss.cross_entropy(torch.nn.Linear(3, 5)(torch.randn(8, 3)), torch.randint(5, (8,)))",
                ("plastic", "reset", "dead unit"),
            ),
        ),
        (SCALES,),
    ),
    Problem(
        "open-ended search",
        ("open-ended", "open ended", "quality", "diversity", "map-elites"),
        _default(
            "quality_diversity.qd_score",
            "the objectives of the best in each cell, added up: it grows with quality and with coverage",
            "fastloss.quality_diversity.qd_score(fastloss.quality_diversity.Archive([(0.0, 1.0)], dims=(4,)))",
        ),
        (
            Advice(
                "descriptors are not known",
                "quality_diversity.aurora_loss",
                "an autoencoder's code describes the behaviours",
                "fastloss.quality_diversity.aurora_loss(torch.randn(8, 16), torch.randn(8, 16))",
                ("descriptor", "learned", "autoencoder"),
            ),
            Advice(
                "a curriculum of environments",
                "games.paired_regret",
                "environments that one agent solves and another does not are neither too easy nor impossible",
                "fastloss.games.paired_regret(torch.rand(8), torch.rand(8))",
                ("curriculum", "environment"),
            ),
        ),
        (),
    ),
)
