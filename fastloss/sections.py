"""What deep learning minimises, in sections: of each its title, and the public names that are its answer."""

from __future__ import annotations

SECTIONS: dict[str, tuple[str, str]] = {
    "1.1": ("squared error", "mse_loss"),
    "1.2": ("absolute error", "l1_loss"),
    "1.3": ("Huber", "huber_loss smooth_l1_loss"),
    "1.4": ("quantiles", "quantile_loss expectile_loss"),
    "1.5": ("log-cosh", "log_cosh_loss"),
    "2.1": ("cross-entropy", "cross_entropy binary_cross_entropy binary_cross_entropy_with_logits nll_loss"),
    "2.2": ("focal", "sigmoid_focal_loss softmax_focal_loss"),
    "2.3": ("label smoothing", "cross_entropy"),
    "2.4": ("hinge", "hinge_loss multi_margin_loss crammer_singer_loss"),
    "2.5": ("distillation", "distillation_loss generalized_jsd_loss"),
    "3.1": ("likelihoods", "nll_loss gaussian_nll_loss laplace_nll_loss poisson_nll_loss student_t_nll_loss mdn_loss"),
    "3.2": ("divergences", "kl_div categorical_kl gaussian_kl"),
    "3.3": ("evidence lower bound", "elbo_loss iwae_loss"),
    "4.1": ("contrastive", "contrastive_loss"),
    "4.2": ("triplets", "triplet_margin_loss batch_hard_triplet_loss semi_hard_triplet_loss"),
    "4.3": ("InfoNCE", "info_nce nt_xent supcon_loss moco_loss dcl_loss"),
    "4.4": ("VICReg", "vicreg_loss barlow_twins_loss"),
    "4.5": ("angular margins", "arcface_loss cosface_loss circle_loss"),
    "5.1": ("minimax game", "gan.gan_d_loss gan.gan_g_loss gan.gail_loss"),
    "5.2": ("Wasserstein", "gan.gan_d_loss gan.gradient_penalty"),
    "5.3": ("hinge game", "gan.gan_d_loss gan.gan_g_loss gan.r1_penalty gan.r2_penalty"),
    "6.1": (
        "denoising",
        "diffusion.diffusion_loss diffusion.denoising_score_matching_loss diffusion.sliced_score_matching_loss "
        "diffusion.consistency_loss diffusion.classifier_free_guidance diffusion.convert_prediction",
    ),
    "6.2": ("flow matching", "diffusion.flow_matching_loss diffusion.flow_times diffusion.optimal_pairs"),
    "7.1": (
        "policy gradient",
        "rl.policy_gradient_loss rl.reinforce_loss rl.discounted_returns rl.gae rl.categorical_log_prob "
        "rl.gaussian_log_prob rl.gaussian_entropy rl.tanh_gaussian_log_prob rl.tanh_gaussian_entropy "
        "rl.policy_distillation_loss rl.gaussian_policy_distillation_loss",
    ),
    "7.2": ("actor and critic", "rl.a2c_loss rl.impala_loss rl.awr_loss rl.awac_loss"),
    "7.3": ("PPO", "rl.ppo_clip_loss rl.value_clip_loss rl.ppo_loss"),
    "7.4": (
        "SAC",
        "rl.sac_actor_loss rl.sac_critic_loss rl.sac_alpha_loss rl.ddpg_actor_loss rl.td3_actor_loss "
        "rl.td3_critic_loss rl.redq_critic_loss rl.tqc_critic_loss",
    ),
    "7.5": (
        "temporal differences",
        "rl.td_learning rl.n_step_td rl.td_lambda rl.q_learning rl.double_q_learning rl.dqn_loss rl.expected_sarsa "
        "rl.cql_loss rl.iql_value_loss rl.lambda_returns rl.n_step_returns rl.vtrace rl.retrace "
        "rl.categorical_projection rl.c51_loss rl.quantile_huber_loss rl.iqn_loss",
    ),
    "7.6": ("models", "rl.dynamics_loss rl.kl_balance rl.rssm_loss rl.symlog rl.two_hot rl.spr_loss rl.curl_loss"),
    "7.7": (
        "exploration",
        "rl.icm_loss rl.rnd_loss rl.count_bonus rl.pseudo_count rl.disagreement_bonus rl.entropy_loss",
    ),
    "8.1": ("self-play", "games.nash_conv games.exploitability games.fictitious_play games.psro games.cfr"),
    "8.2": ("populations", "games.neupl_loss"),
    "8.3": ("diversity", "games.pairwise_diversity_loss games.dpp_loss"),
    "9.1": ("human feedback", "alignment.reward_model_loss alignment.kl_penalty alignment.rlhf_loss"),
    "9.2": ("DPO", "alignment.dpo_loss"),
    "9.3": ("KTO", "alignment.kto_loss"),
    "9.4": ("GRPO", "alignment.grpo_advantages alignment.rloo_advantages alignment.grpo_loss"),
    "9.5": ("SimPO", "alignment.simpo_loss alignment.cpo_loss"),
    "9.6": ("ORPO", "alignment.orpo_loss"),
    "10.1": ("MAP-Elites", "quality_diversity.Archive quality_diversity.qd_score quality_diversity.coverage"),
    "10.2": (
        "gradients of quality and diversity",
        "quality_diversity.dqd_branch quality_diversity.archive_improvement",
    ),
    "10.3": ("novelty", "quality_diversity.novelty_score quality_diversity.novelty_fitness"),
    "10.4": ("learned descriptors", "quality_diversity.aurora_loss"),
    "10.5": ("regret", "games.paired_regret"),
    "11.1": (
        "weights",
        "regularization.l1_penalty regularization.l2_penalty regularization.elastic_net_penalty "
        "regularization.group_lasso",
    ),
    "11.2": ("entropy", "regularization.entropy regularization.confidence_penalty"),
    "11.3": ("spectral norm", "regularization.spectral_norm_penalty regularization.orthogonality_penalty"),
    "11.4": (
        "consolidation",
        "regularization.ewc_loss regularization.EWC regularization.synaptic_intelligence regularization.lwf_loss",
    ),
    "11.5": ("dropout", "regularization.mc_dropout"),
    "12.1": ("next token", "lm_loss"),
    "12.2": ("masked tokens", "mlm_loss"),
    "12.3": ("masked images", "mae_loss"),
    "12.4": ("images and texts", "clip_loss siglip_loss"),
    "12.5": (
        "auxiliary",
        "rl.reward_prediction_loss rl.next_state_loss rl.inverse_dynamics_loss rl.temporal_contrastive_loss",
    ),
    "13.1": ("which loss", "recommend"),
    "13.2": ("pitfalls", "compose.TermMonitor"),
    "13.3": (
        "composition",
        "compose.CompositeLoss compose.UncertaintyWeighting compose.GradNorm compose.PCGrad compose.agg_loss "
        "compose.masked_mean compose.stop_gradient",
    ),
}
