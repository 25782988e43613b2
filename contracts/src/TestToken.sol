// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Test money
/// @notice A dollar with six decimals and permit that anybody may mint. Worth nothing, by design.
contract TestToken is ERC20Permit {
    constructor() ERC20("gridsouk test dollar", "tUSD") ERC20Permit("gridsouk test dollar") {}

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }
}
