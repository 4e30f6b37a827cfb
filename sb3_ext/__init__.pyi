"""The public names, for editors and type checkers; at run time they are found on first use."""

from sb3_ext.algorithms.composable import Composable as Composable
from sb3_ext.algorithms.crossq import CrossQ as CrossQ
from sb3_ext.algorithms.dqn import DQN as DQN
from sb3_ext.algorithms.qrdqn import QRDQN as QRDQN
from sb3_ext.algorithms.sac import SAC as SAC
from sb3_ext.algorithms.td3 import DDPG as DDPG
from sb3_ext.algorithms.td3 import TD3 as TD3
from sb3_ext.algorithms.tqc import TQC as TQC
from sb3_ext.losses import MSE as MSE
from sb3_ext.losses import PAL as PAL
from sb3_ext.losses import Huber as Huber
from sb3_ext.offline.baselines import OfflineDDPG as OfflineDDPG
from sb3_ext.offline.baselines import OfflineDQN as OfflineDQN
from sb3_ext.offline.baselines import OfflineSAC as OfflineSAC
from sb3_ext.offline.baselines import OfflineTD3 as OfflineTD3
from sb3_ext.plugins.acer.algorithm import ACER as ACER
from sb3_ext.plugins.bcq.algorithm import BCQ as BCQ
from sb3_ext.plugins.bcq.discrete import DiscreteBCQ as DiscreteBCQ
from sb3_ext.plugins.causal.algorithm import CausalBC as CausalBC
from sb3_ext.plugins.causal.confounding import PreviousAction as PreviousAction
from sb3_ext.plugins.causal.confounding import RichStart as RichStart
from sb3_ext.plugins.causal.confounding import with_previous_action as with_previous_action
from sb3_ext.plugins.ere.buffer import EREReplayBuffer as EREReplayBuffer
from sb3_ext.plugins.ere.config import EmphasizeRecent as EmphasizeRecent
from sb3_ext.plugins.imitation.algorithms import AIRL as AIRL
from sb3_ext.plugins.imitation.algorithms import GAIL as GAIL
from sb3_ext.plugins.imitation.bc import BC as BC
from sb3_ext.plugins.imitation.dagger import DAgger as DAgger
from sb3_ext.plugins.lfiw.algorithms import LFIWDQN as LFIWDQN
from sb3_ext.plugins.lfiw.algorithms import LFIWSAC as LFIWSAC
from sb3_ext.plugins.lfiw.algorithms import LFIWTD3 as LFIWTD3
from sb3_ext.plugins.lfiw.config import LikelihoodFree as LikelihoodFree
from sb3_ext.plugins.per.buffer import PrioritizedReplayBuffer as PrioritizedReplayBuffer
from sb3_ext.plugins.per.config import LAP as LAP
from sb3_ext.plugins.per.config import Prioritized as Prioritized
from sb3_ext.plugins.steve.algorithms import MVE as MVE
from sb3_ext.plugins.steve.algorithms import STEVE as STEVE
from sb3_ext.plugins.steve.algorithms import STEVESAC as STEVESAC
from sb3_ext.replay.compact import CompactReplayBuffer as CompactReplayBuffer
from sb3_ext.replay.sampler import Drawn as Drawn
from sb3_ext.replay.sampler import Sampler as Sampler
from sb3_ext.replay.storage import Replay as Replay
from sb3_ext.replay.window import Window as Window
from sb3_ext.updates import Clock as Clock
from sb3_ext.updates import Draw as Draw
from sb3_ext.updates import Step as Step
from sb3_ext.vec_env.packed import PackedSubprocVecEnv as PackedSubprocVecEnv
from sb3_ext.weighting import Weighting as Weighting

FRAMEWORK: dict[str, str]
__version__: str
