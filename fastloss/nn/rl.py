"""Modules of :mod:`fastloss.losses.rl`."""

from fastloss.losses import rl as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "GAE",
    "UPGO",
    "A2CLoss",
    "AWACLoss",
    "AWRLoss",
    "C51Loss",
    "CQLLoss",
    "CURLLoss",
    "CategoricalLogProb",
    "DDPGActorLoss",
    "DQNLoss",
    "DiscountedReturns",
    "DoubleQLearningLoss",
    "DynamicsLoss",
    "EntropyLoss",
    "ExpectedSarsaLoss",
    "GaussianEntropy",
    "GaussianLogProb",
    "GaussianPolicyDistillationLoss",
    "HLGaussLoss",
    "ICMLoss",
    "IMPALALoss",
    "IQLValueLoss",
    "IQNLoss",
    "InverseDynamicsLoss",
    "KLBalance",
    "LambdaReturns",
    "LinearPPOClipLoss",
    "LinearPPOLoss",
    "LinearScan",
    "NStepReturns",
    "NStepTDLoss",
    "NextStateLoss",
    "PPOClipLoss",
    "PPOClipLossFromLogits",
    "PPOLoss",
    "PPOLossFromLogits",
    "PolicyDistillationLoss",
    "PolicyGradientLoss",
    "QLambda",
    "QLearningLoss",
    "QuantileHuberLoss",
    "REDQCriticLoss",
    "RNDLoss",
    "RSSMLoss",
    "ReinforceLoss",
    "Retrace",
    "RewardPredictionLoss",
    "SACActorLoss",
    "SACAlphaLoss",
    "SACCriticLoss",
    "SPRLoss",
    "TD3ActorLoss",
    "TD3CriticLoss",
    "TDLambda",
    "TDLearningLoss",
    "TQCCriticLoss",
    "TanhGaussianEntropy",
    "TanhGaussianLogProb",
    "TemporalContrastiveLoss",
    "TreeBackup",
    "TwoHotLoss",
    "VTrace",
    "ValueClipLoss",
]


class PPOClipLoss(FunctionLoss, of=losses.ppo_clip_loss):
    """Clipped surrogate of proximal policy optimisation."""


class ValueClipLoss(FunctionLoss, of=losses.value_clip_loss):
    """Squared error of values that are clipped near their old ones."""


class PPOLoss(FunctionLoss, of=losses.ppo_loss):
    """Policy, value and entropy losses of proximal policy optimisation."""


class CURLLoss(FunctionLoss, of=losses.curl_loss):
    """Each query is to find its key by a bilinear similarity."""


class TemporalContrastiveLoss(FunctionLoss, of=losses.temporal_contrastive_loss):
    """Each state is to find a later one."""


class QuantileHuberLoss(FunctionLoss, of=losses.quantile_huber_loss):
    """Quantile Huber loss of QR-DQN."""


class IQNLoss(FunctionLoss, of=losses.iqn_loss):
    """Loss of implicit quantile networks."""


class GAE(FunctionLoss, of=losses.gae):
    """Generalised advantage estimation."""


class DiscountedReturns(FunctionLoss, of=losses.discounted_returns):
    """Sums of the discounted rewards from each step on."""


class LambdaReturns(FunctionLoss, of=losses.lambda_returns):
    """Mixtures of the n-step returns of all n."""


class NStepReturns(FunctionLoss, of=losses.n_step_returns):
    """Sums of n discounted rewards, and the value behind them."""


class TDLambda(FunctionLoss, of=losses.td_lambda):
    """Errors of values against the lambda-returns."""


class VTrace(FunctionLoss, of=losses.vtrace):
    """Values and advantages of a policy from trajectories of another one."""


class Retrace(FunctionLoss, of=losses.retrace):
    """Targets of action values from trajectories of another policy."""


class TreeBackup(FunctionLoss, of=losses.tree_backup):
    """Targets of action values, whatever policy acted."""


class QLambda(FunctionLoss, of=losses.q_lambda):
    """Targets of action values without importance weights."""


class UPGO(FunctionLoss, of=losses.upgo):
    """Returns of the trajectory as long as it goes better than expected."""


class LinearScan(FunctionLoss, of=losses.linear_scan):
    """A linear recurrence over time."""


class PPOClipLossFromLogits(FunctionLoss, of=losses.ppo_clip_loss_from_logits):
    """Clipped surrogate of proximal policy optimisation, from logits."""


class LinearPPOClipLoss(FunctionLoss, of=losses.linear_ppo_clip_loss):
    """Clipped surrogate of proximal policy optimisation, from hidden states."""


class PPOLossFromLogits(FunctionLoss, of=losses.ppo_loss_from_logits):
    """Policy, value and entropy of proximal policy optimisation, from logits."""


class LinearPPOLoss(FunctionLoss, of=losses.linear_ppo_loss):
    """Policy, value and entropy of proximal policy optimisation, from hidden states."""


class C51Loss(FunctionLoss, of=losses.c51_loss):
    """Categorical distributional TD loss."""


class TwoHotLoss(FunctionLoss, of=losses.two_hot_loss):
    """Cross-entropy to the two-hot distribution of a number."""


class HLGaussLoss(FunctionLoss, of=losses.hl_gauss_loss):
    """Cross-entropy to a histogram of a Gaussian around a number."""


class TDLearningLoss(FunctionLoss, of=losses.td_learning):
    """A value against the reward and the value of the next state."""


class NStepTDLoss(FunctionLoss, of=losses.n_step_td):
    """A value against n rewards and the value behind them."""


class QLearningLoss(FunctionLoss, of=losses.q_learning):
    """The value of an action against the reward and the best value of the next state."""


class DoubleQLearningLoss(FunctionLoss, of=losses.double_q_learning):
    """Q-learning without the bias of a maximum."""


class ExpectedSarsaLoss(FunctionLoss, of=losses.expected_sarsa):
    """The value of an action against the reward and the policy's value of the next state."""


class DQNLoss(FunctionLoss, of=losses.dqn_loss):
    """Loss of deep Q-networks."""


class CQLLoss(FunctionLoss, of=losses.cql_loss):
    """Conservative Q-learning."""


class IQLValueLoss(FunctionLoss, of=losses.iql_value_loss):
    """Values as expectiles of the values of actions."""


class ReinforceLoss(FunctionLoss, of=losses.reinforce_loss):
    """Policy gradient from log-probabilities."""


class PolicyGradientLoss(FunctionLoss, of=losses.policy_gradient_loss):
    """Policy gradient from logits."""


class EntropyLoss(FunctionLoss, of=losses.entropy_loss):
    """Minus the entropy of a policy."""


class A2CLoss(FunctionLoss, of=losses.a2c_loss):
    """Advantage actor-critic."""


class AWRLoss(FunctionLoss, of=losses.awr_loss):
    """Advantage-weighted regression."""


class AWACLoss(FunctionLoss, of=losses.awac_loss):
    """The actor of advantage-weighted actor-critic."""


class IMPALALoss(FunctionLoss, of=losses.impala_loss):
    """Actor and critic from trajectories of another policy."""


class SACActorLoss(FunctionLoss, of=losses.sac_actor_loss):
    """The actor of soft actor-critic."""


class SACCriticLoss(FunctionLoss, of=losses.sac_critic_loss):
    """The critics of soft actor-critic."""


class SACAlphaLoss(FunctionLoss, of=losses.sac_alpha_loss):
    """The temperature of soft actor-critic."""


class DDPGActorLoss(FunctionLoss, of=losses.ddpg_actor_loss):
    """A deterministic policy by its critic."""


class TD3ActorLoss(FunctionLoss, of=losses.td3_actor_loss):
    """A deterministic policy by its critic."""


class TD3CriticLoss(FunctionLoss, of=losses.td3_critic_loss):
    """The critics of TD3 and DDPG."""


class REDQCriticLoss(FunctionLoss, of=losses.redq_critic_loss):
    """An ensemble of critics, each against the least of a few chosen at random."""


class TQCCriticLoss(FunctionLoss, of=losses.tqc_critic_loss):
    """Truncated quantile critics."""


class RewardPredictionLoss(FunctionLoss, of=losses.reward_prediction_loss):
    """Squared error of predicted rewards."""


class NextStateLoss(FunctionLoss, of=losses.next_state_loss):
    """Squared distance of predicted states."""


class InverseDynamicsLoss(FunctionLoss, of=losses.inverse_dynamics_loss):
    """Which action led from a state to the next one?"""


class ICMLoss(FunctionLoss, of=losses.icm_loss):
    """Intrinsic curiosity."""


class RNDLoss(FunctionLoss, of=losses.rnd_loss):
    """Random network distillation."""


class DynamicsLoss(FunctionLoss, of=losses.dynamics_loss):
    """Squared errors of a model's states and rewards."""


class KLBalance(FunctionLoss, of=losses.kl_balance):
    """Divergence of posterior and prior, of which the prior learns faster."""


class RSSMLoss(FunctionLoss, of=losses.rssm_loss):
    """Loss of a recurrent state-space model."""


class SPRLoss(FunctionLoss, of=losses.spr_loss):
    """Self-predictive representations."""


class GaussianLogProb(FunctionLoss, of=losses.gaussian_log_prob):
    """Log-probability of actions of a Gaussian policy."""


class GaussianEntropy(FunctionLoss, of=losses.gaussian_entropy):
    """Entropy of a Gaussian policy."""


class TanhGaussianLogProb(FunctionLoss, of=losses.tanh_gaussian_log_prob):
    """Log-probability of actions of a Gaussian policy that is squashed by tanh."""


class TanhGaussianEntropy(FunctionLoss, of=losses.tanh_gaussian_entropy):
    """Entropy of a Gaussian policy that is squashed by tanh."""


class CategoricalLogProb(FunctionLoss, of=losses.categorical_log_prob):
    """Log-probability of actions of a categorical policy."""


class PolicyDistillationLoss(FunctionLoss, of=losses.policy_distillation_loss):
    """Divergence of a categorical policy from its teacher's."""


class GaussianPolicyDistillationLoss(FunctionLoss, of=losses.gaussian_policy_distillation_loss):
    """Divergence of a Gaussian policy from its teacher's."""
