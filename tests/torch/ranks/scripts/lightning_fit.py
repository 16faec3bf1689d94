"""Lightning's DDP strategy under torchrun. Arguments: the backend, and a file for rank 0's parameters."""

from __future__ import annotations

import sys
import warnings

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def training_step(self, batch: list[torch.Tensor], _index: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main() -> None:
    warnings.simplefilter("ignore")
    backend, path = sys.argv[1:]
    torch.set_num_threads(1)
    lightning.seed_everything(4)
    made = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(64, 8, generator=made), torch.randn(64, 1, generator=made))
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend=backend),
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    net = Net()
    trainer.fit(net, DataLoader(data, batch_size=8))
    assert torch.distributed.get_backend() == backend
    if trainer.global_rank == 0:
        torch.save(net.state_dict(), path)


if __name__ == "__main__":
    main()
