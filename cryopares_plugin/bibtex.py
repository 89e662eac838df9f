"""

@article{SanchezGarcia2025,
  title = {CryoPARES: Cryo-EM Pose Assignment for Related Experiments via Supervised deep learning},
  author = {Sanchez-Garcia, Ruben and others},
  journal = {bioRxiv},
  year = {2025},
  publisher = {Cold Spring Harbor Laboratory}
}

"""
