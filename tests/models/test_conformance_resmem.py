"""ResMem, as one source among others."""

from __future__ import annotations

import pytest
from conformance import SourceConformance


@pytest.mark.slow
class TestResMem(SourceConformance):
    source = "resmem"
    name = "resmem"
    modules = ("features.5.4", "conv2", "features.layer1.0.relu@1", "relu9")
    unlike = "resmem2"

    def own_transform(self, model):
        import resmem

        return resmem.transformer
